// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/peer_dispatch.h -- one rank of a dispatcher on any device: what arrived, what came
// back. The experts run on the host, so devices and transports must agree bit by bit.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/backend.h"
#include "base/peer_control.h"
#include "base/status.h"
#include "ops/ops.h"
#include "switchyard/dispatcher.h"
#include "testing/cpu_ops.h"
#include "testing/routing.h"

namespace switchyard::testing {

// A tensor in memory of a backend's device.
class OnDevice {
 public:
  OnDevice(Backend& backend, DType dtype, Shape shape)
      : view_(nullptr, dtype, shape, backend.kind()) {
    memory_ = allocate(backend, static_cast<size_t>(view_.bytes()) + 16);
    view_.data = memory_.get();
  }
  OnDevice(Backend& backend, ConstTensor host) : OnDevice(backend, host.dtype, host.shape) {
    copy_to_device(backend, view_, host.data);
  }
  Tensor view() const { return view_; }

 private:
  std::shared_ptr<void> memory_;
  Tensor view_;
};

template <class T>
std::vector<T> read(Backend& backend, ConstTensor t, CUstream_st* stream) {
  std::vector<T> host(static_cast<size_t>(t.count()));
  copy_to_host(backend, host.data(), t, stream);
  return host;
}

// Tokens of every rank, of every call.
struct DispatchCase {
  MoeConfig config;
  DispatcherOptions options;
  int num_ranks = 2;
  int64_t capacity = 48;
  // Of each call; the bound is the largest number of tokens of a rank unless it is given.
  struct Call {
    std::vector<int64_t> tokens;  // by rank; equal in a tensor-parallel group
    Skew skew = Skew::Balanced;
    uint64_t seed = 1;
    int64_t max_tokens = -1;
    int bad_id_on = -1;  // this rank's first id is out of range
  };
  std::vector<Call> calls;
  uint32_t first_epoch = 0;  // peer memory: as if so many calls had been
  // Where the dispatcher has a place for hidden states, those of two in three calls stand there.
  bool in_place = false;
  // Where combine sums this rank's own rows itself, it has to: their partial rows are NaN.
  bool own_sums = false;
  void leave_out_own_rows() { own_sums = true, options.own_sums_from = 1; }
  // The experts take rows in f8_e4m3: what did not travel so is quantised where it arrives.
  bool f8_experts = false;
  bool odd_rows = false;  // among the tokens are those of mark_odd_rows
  // Absent: make_dispatcher does.
  std::function<std::unique_ptr<Dispatcher>(const DispatchCase&, Communicator&,
                                            std::shared_ptr<Backend>)>
      make;

  int group(int rank) const {
    return options.kind == DispatcherKind::Local ? 0 : rank / options.tp_size;
  }
};

// Rows that a quantiser may get wrong, where there are as many: NaN, infinities, zeros, tiny and huge
// numbers.
inline void mark_odd_rows(Buffer<Bf16>& x, int64_t hidden) {
  const auto row = [&](int64_t r) { return x.data() + r * hidden; };
  if (x.count() < 6 * hidden) return;
  row(0)[3] = Bf16(std::nanf(""));
  row(1)[hidden - 1] = Bf16(-std::numeric_limits<float>::infinity());
  std::fill_n(row(2), hidden, Bf16(0.0f));
  row(2)[1] = Bf16(-0.0f);
  std::fill_n(row(3), hidden, Bf16(1e-39f));
  row(4)[0] = Bf16(3e38f);
  row(5)[0] = Bf16(1e-3f);
}

// What one rank saw of one call.
struct DispatchOutcome {
  StatusWords status;
  int32_t num_rows = -1;
  std::vector<uint16_t> rows;  // the num_rows that arrived; of f8_experts codes times scales
  std::vector<uint8_t> codes;  // f8_experts
  std::vector<uint32_t> scales;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<uint16_t> output;
};

// What arrived, without its gaps, and rows that stayed with their ranks in their places.
struct Arrived {
  explicit Arrived(const DispatchOutcome& all) : rows(all) {}
  DispatchOutcome rows;
};

// Row r has no local expert.
inline bool is_gap(const DispatchOutcome& in, int64_t r, int64_t top_k) {
  const auto first = in.ids.begin() + r * top_k;
  return std::all_of(first, first + top_k, [](int32_t id) { return id == kNoExpert; });
}

constexpr uint16_t kNanBits = 0x7fc1;  // of bf16

// The local slots' weighted sum, as one partial row; of gaps NaN, which nobody may read.
inline std::vector<uint16_t> weigh(const DispatchOutcome& in, bool has_gaps, int64_t hidden,
                                   int64_t top_k, int64_t capacity) {
  std::vector<uint16_t> partial(static_cast<size_t>(capacity * hidden), kNanBits);
  for (int64_t r = 0; r < in.num_rows; ++r) {
    if (has_gaps && is_gap(in, r, top_k)) continue;
    for (int64_t h = 0; h < hidden; ++h) {
      const auto at = static_cast<size_t>(r * hidden + h);
      float sum = 0;
      for (auto s = static_cast<size_t>(r * top_k); s < static_cast<size_t>((r + 1) * top_k); ++s)
        if (in.ids[s] >= 0) sum += in.weights[s] * static_cast<float>(Bf16::from_bits(in.rows[at]));
      partial[at] = Bf16(sum).bits();
    }
  }
  return partial;
}

inline DispatchOutcome without_gaps(const DispatchOutcome& in, int64_t hidden, int64_t top_k) {
  DispatchOutcome out = in;
  out.num_rows = 0, out.rows.clear(), out.ids.clear(), out.weights.clear();
  out.codes.clear(), out.scales.clear();
  const auto add = [](auto& to, const auto& from, int64_t row, int64_t width) {
    to.insert(to.end(), from.begin() + row * width, from.begin() + (row + 1) * width);
  };
  for (int64_t r = 0; r < in.num_rows; ++r) {
    if (is_gap(in, r, top_k)) continue;
    ++out.num_rows;
    add(out.rows, in.rows, r, hidden);
    if (!in.codes.empty()) add(out.codes, in.codes, r, hidden);
    if (!in.codes.empty()) add(out.scales, in.scales, r, ceil_div(hidden, kQuantGroup));
    add(out.ids, in.ids, r, top_k);
    add(out.weights, in.weights, r, top_k);
  }
  return out;
}

// Reads what arrived, and fetches what stayed with its rank, each row to its own place.
class Receiver {
 public:
  Receiver(Backend& backend, int64_t max_rows, const DispatchCase& c)
      : backend_(backend),
        f8_experts_(c.f8_experts),
        hidden_(c.config.hidden),
        rows_(backend, DType::Bf16, {max_rows, hidden_}),
        codes_(backend, DType::F8E4m3, {max_rows, hidden_}),
        scales_(backend, DType::F32, {max_rows, ceil_div(hidden_, kQuantGroup)}),
        places_(backend, DType::I32, {max_rows, 1}),
        slots_(backend, DType::I32, {max_rows, c.config.top_k}) {}

  void read_into(DispatchOutcome& o, const ReceivedRows& in, CUstream_st* stream) const {
    o.num_rows = in.num_rows.present() ? read<int32_t>(backend_, in.num_rows, stream).front()
                                       : static_cast<int32_t>(in.ids.dim(0));
    o.ids = read<int32_t>(backend_, in.ids.rows(0, o.num_rows), stream);
    o.weights = read<float>(backend_, in.weights.rows(0, o.num_rows), stream);
    const RowSource& source = in.source;
    EXPECT_EQ(source.scales.present(), source.rows.dtype == DType::F8E4m3);
    if (!source.scales.present()) {
      o.rows = read<uint16_t>(backend_, arrived(o, source, in, rows_.view(), stream), stream);
      if (f8_experts_) quantise(o);
    } else {
      RowSource scales = source;
      scales.rows = source.scales;
      o.codes = read<uint8_t>(backend_, arrived(o, source, in, codes_.view(), stream), stream);
      o.scales = read<uint32_t>(backend_, arrived(o, scales, in, scales_.view(), stream), stream);
    }
    if (!f8_experts_) return;
    dequantise(o);
    copy_to_device(backend_, rows_.view().rows(0, o.num_rows), o.rows.data(), stream);
  }

  // What `weigh` sums, of rows that were fetched.
  SlotSums sums(const DispatchOutcome& o, const ReceivedRows& in, CUstream_st* stream) const {
    const int64_t top_k = in.ids.dim(1);
    std::vector<int32_t> slots(o.ids.size(), kNoRow);
    for (size_t s = 0; s < slots.size(); ++s)
      if (o.ids[s] >= 0) slots[s] = static_cast<int32_t>(s) / static_cast<int32_t>(top_k);
    const Tensor at = slots_.view().rows(0, o.num_rows);
    copy_to_device(backend_, at, slots.data(), stream);
    return {rows_.view(), at, in.weights};
  }

 private:
  // One part of the rows: where it is, or in `room` what is fetched of it.
  ConstTensor arrived(const DispatchOutcome& o, const RowSource& source, const ReceivedRows& in,
                      Tensor room, CUstream_st* stream) const {
    if (!source.peers.present()) return source.rows.rows(0, o.num_rows);
    std::vector<int32_t> places;
    for (int64_t r = 0; r < o.num_rows; ++r)
      places.push_back(is_gap(o, r, in.ids.dim(1)) ? kNoRow : static_cast<int32_t>(r));
    const Tensor at = places_.view().rows(0, o.num_rows), rows = room.rows(0, o.num_rows);
    copy_to_device(backend_, at, places.data(), stream);
    backend_.ops().run(ScatterRows{rows, source, at, in.num_rows}, stream);
    return rows;
  }

  // By the form that defines it.
  void quantise(DispatchOutcome& o) const {
    const int64_t groups = ceil_div(hidden_, kQuantGroup);
    o.codes.resize(o.rows.size());
    o.scales.resize(static_cast<size_t>(o.num_rows * groups));
    QuantizeRows op;
    op.dst = Tensor(o.codes.data(), DType::F8E4m3, {o.num_rows, hidden_});
    op.scales = Tensor(o.scales.data(), DType::F32, {o.num_rows, groups});
    op.src = ConstTensor(o.rows.data(), DType::Bf16, {o.num_rows, hidden_});
    run_plain(op);
  }

  void dequantise(DispatchOutcome& o) const {
    const int64_t groups = ceil_div(hidden_, kQuantGroup);
    o.rows.resize(o.codes.size());
    for (size_t i = 0; i < o.rows.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / hidden_, col = static_cast<int64_t>(i) % hidden_;
      const float scale =
          std::bit_cast<float>(o.scales[static_cast<size_t>(row * groups + col / kQuantGroup)]);
      o.rows[i] = Bf16(static_cast<float>(F8E4m3::from_bits(o.codes[i])) * scale).bits();
    }
  }

  Backend& backend_;
  bool f8_experts_;
  int64_t hidden_;
  OnDevice rows_, codes_, scales_, places_, slots_;
};

// Collective: every call of the case on one dispatcher and one workspace.
inline std::vector<DispatchOutcome> run_dispatch(const DispatchCase& c, Communicator& comm,
                                                 const std::shared_ptr<Backend>& backend,
                                                 CUstream_st* stream) {
  const int64_t h = c.config.hidden, k = c.config.top_k;
  Backend& b = *backend;
  auto dispatcher =
      c.make ? c.make(c, comm, backend) : make_dispatcher(c.config, c.options, comm, backend);
  const size_t bytes = dispatcher->workspace_bytes(c.capacity);
  const auto memory = allocate(b, bytes);
  const Workspace workspace{memory.get(), bytes};
  dispatcher->connect(workspace, c.capacity, memory);

  if (c.first_epoch != 0) {  // as the last call would have left it
    std::vector<int64_t> words(static_cast<size_t>(control_words(comm.size())));
    std::fill(words.begin() + kControlHeaders, words.end(), epoch_word(c.first_epoch, 0));
    words[kControlEpoch] = c.first_epoch;
    copy_to_device(b, Tensor(memory.get(), DType::I64, {control_words(comm.size())}, b.kind()),
                   words.data());
  }

  // Made before anything waits: on one device an allocation may wait for every kernel.
  struct Inputs {
    OnDevice hidden, ids, weights, output, status;
  };
  const Receiver receiver(b, dispatcher->max_rows(c.capacity), c);
  const OnDevice room(b, DType::Bf16, {dispatcher->max_rows(c.capacity), h});
  const Tensor place = c.in_place ? dispatcher->input_rows(workspace) : Tensor{};
  std::vector<Inputs> inputs;
  std::vector<int64_t> bounds;
  for (const auto& call : c.calls) {
    const int group = c.group(comm.rank());
    const int64_t t = call.tokens[static_cast<size_t>(comm.rank())];
    const auto slice = dispatcher->slice(t);
    const auto seed = call.seed * 100 + static_cast<uint64_t>(group);
    auto x = random_bf16({t, h}, seed);
    if (c.odd_rows) mark_odd_rows(x, h);
    auto ids = random_ids(t, c.config.num_experts, k, call.skew, seed + 1);
    if (call.bad_id_on == comm.rank() && t > 0) ids[0] = 1000;
    const auto weights = random_f32({t, k}, seed + 2, 0.1f, 1.0f);
    Buffer<int32_t> good({kStatusWords});
    for (int64_t i = 0; i < kStatusWords; ++i) good[i] = 0;
    inputs.push_back({OnDevice(b, x.view()), OnDevice(b, ids.view().rows(slice.begin, slice.size)),
                      OnDevice(b, weights.view().rows(slice.begin, slice.size)),
                      OnDevice(b, Buffer<Bf16>({t, h}).view()), OnDevice(b, good.view())});
    bounds.push_back(call.max_tokens >= 0
                         ? call.max_tokens
                         : *std::max_element(call.tokens.begin(), call.tokens.end()));
  }
  meet(comm);

  std::vector<DispatchOutcome> outcomes;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Inputs& in = inputs[i];
    const Tensor status = in.status.view();
    DispatchOutcome o;
    ConstTensor hidden = in.hidden.view();
    if (place.present() && i % 3 != 2) {
      const Tensor rows = place.rows(0, hidden.dim(0));
      b.ops().run(Copy{rows, hidden}, stream);
      hidden = rows;
    }
    const auto call = dispatcher->dispatch(workspace, hidden, in.ids.view(), in.weights.view(),
                                           bounds[i], status, stream);
    receiver.read_into(o, call.received, stream);
    const bool has_gaps = call.received.has_gaps;
    const int64_t capacity = dispatcher->max_rows(bounds[i]);
    auto partial = weigh(o, has_gaps, h, k, capacity);
    PartialRows back = dispatcher->sum_experts({}, call, {}, stream);
    const RowSource& source = call.received.source;
    if (c.own_sums && source.peers.present() && comm.size() == 2 &&
        c.options.num_link_blocks == 0) {
      back.sums = receiver.sums(o, call.received, stream);
      std::fill_n(partial.begin() + comm.rank() * source.block * h, hidden.dim(0) * h, kNanBits);
    }
    if (has_gaps) o = without_gaps(o, h, k);
    if (!back.rows.present()) back.rows = room.view().rows(0, capacity);
    copy_to_device(b, back.rows, partial.data(), stream);
    dispatcher->combine(in.output.view(), back, call, {}, status, stream);
    o.output = read<uint16_t>(b, in.output.view(), stream);
    const auto words = read<int32_t>(b, status, stream);
    o.status = {words[0], words[1], words[2], words[3]};
    outcomes.push_back(std::move(o));
  }
  meet(comm);
  return outcomes;
}

using AllOutcomes = std::vector<std::vector<DispatchOutcome>>;  // by rank, then call

// The same on threads of the CPU that exchange bf16 rows through their communicator: what is right.
inline AllOutcomes expected_outcomes(DispatchCase c) {
  if (c.options.kind == DispatcherKind::LowLatency) c.options.kind = DispatcherKind::Normal;
  c.options.rows = DType::Bf16;
  c.options.peer_memory = c.options.host_ordered = c.in_place = c.own_sums = false;
  c.first_epoch = 0;
  c.make = nullptr;
  AllOutcomes all(static_cast<size_t>(c.num_ranks));
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    all[static_cast<size_t>(comm.rank())] = run_dispatch(c, comm, make_cpu_backend(1), nullptr);
  });
  return all;
}

// Empty, or what differs first. All-gather pads its rows elsewhere, so only its output is compared.
inline std::string difference(const DispatchCase& c, const AllOutcomes& expected,
                              const AllOutcomes& computed) {
  for (size_t r = 0; r < expected.size(); ++r)
    for (size_t i = 0; i < expected[r].size(); ++i) {
      const auto& e = expected[r][i];
      const auto& o = computed[r][i];
      const auto at = " of rank " + std::to_string(r) + ", call " + std::to_string(i);
      if (o.status.code != e.status.code || o.status.detail != e.status.detail ||
          o.status.value != e.status.value)
        return "status" + at + ": " + status_message(o.status) + " need " +
               status_message(e.status);
      if (!e.status.good()) continue;
      if (c.options.kind != DispatcherKind::AllGather) {
        if (o.num_rows != e.num_rows)
          return "num_rows" + at + ": " + std::to_string(o.num_rows) + ", need " +
                 std::to_string(e.num_rows);
        if (o.ids != e.ids) return "ids" + at;
        if (o.weights != e.weights) return "weights" + at;
        if (o.scales != e.scales) return "scales" + at;
        if (o.codes != e.codes) return "codes" + at;
        for (size_t n = 0; n < e.rows.size(); ++n)
          if (o.rows[n] != e.rows[n])
            return "rows" + at + ": row " +
                   std::to_string(n / static_cast<size_t>(c.config.hidden)) + ", column " +
                   std::to_string(n % static_cast<size_t>(c.config.hidden));
      }
      const auto is_nan = [](uint16_t bits) { return (bits & 0x7fffu) > 0x7f80u; };
      for (size_t n = 0; n < e.output.size(); ++n)
        if (o.output[n] != e.output[n] && !(is_nan(o.output[n]) && is_nan(e.output[n])))
          return "output" + at + ": token " +
                 std::to_string(n / static_cast<size_t>(c.config.hidden)) + ", column " +
                 std::to_string(n % static_cast<size_t>(c.config.hidden));
    }
  return {};
}

// Every kind over `num_ranks`, with and without tensor-parallel groups; uneven and empty ranks.
inline std::vector<DispatchCase> dispatch_cases(int num_ranks, int64_t hidden) {
  std::vector<DispatchCase> all;
  const auto add = [&](DispatcherKind kind, int tp_size, int64_t top_k, bool fetch = false,
                       bool in_place = false) {
    DispatchCase c;
    c.in_place = in_place;
    if (in_place || (fetch && tp_size > 1)) c.leave_out_own_rows();
    c.config = dispatch_config(hidden, 8, top_k);
    c.options.kind = kind;
    c.options.tp_size = tp_size;
    c.options.fetch_rows = fetch;
    c.num_ranks = num_ranks;
    uint64_t seed = 1;
    const auto tokens = [&](auto of_group) {
      std::vector<int64_t> t;
      for (int r = 0; r < num_ranks; ++r) t.push_back(of_group(c.group(r)));
      return t;
    };
    for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                            Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing})
      c.calls.push_back({tokens([](int g) { return g == 1 ? 0 : 33 + 2 * g; }), skew, seed++});
    c.calls.push_back({tokens([](int) { return 0; }), Skew::Balanced, seed++});
    c.calls.push_back({tokens([](int) { return 48; }), Skew::Balanced, seed++});
    c.calls.push_back({tokens([](int g) { return g == 0 ? 0 : 1; }), Skew::Zipf, seed++, 48});
    all.push_back(std::move(c));
  };
  for (const int64_t top_k : {1, 4}) {
    add(DispatcherKind::Normal, 1, top_k);
    add(DispatcherKind::Normal, 1, top_k, true);
    add(DispatcherKind::Normal, 1, top_k, true, true);
    add(DispatcherKind::AllGather, 1, top_k);
    if (num_ranks > 1) add(DispatcherKind::Local, num_ranks, top_k);
    if (num_ranks > 2) add(DispatcherKind::Normal, 2, top_k, top_k == 4);
    if (num_ranks > 2) add(DispatcherKind::AllGather, 2, top_k);
  }
  add(DispatcherKind::Normal, num_ranks, 2);
  return all;
}

// Those of normal that push rows, by low latency.
inline std::vector<DispatchCase> low_latency_cases(int num_ranks, int64_t hidden) {
  std::vector<DispatchCase> all;
  for (auto& c : dispatch_cases(num_ranks, hidden)) {
    if (c.options.kind != DispatcherKind::Normal || c.options.fetch_rows) continue;
    c.options.kind = DispatcherKind::LowLatency;
    all.push_back(std::move(c));
  }
  return all;
}

// All over which rows travel, in f8_e4m3.
inline std::vector<DispatchCase> in_f8(std::vector<DispatchCase> cases) {
  std::erase_if(cases, [](const DispatchCase& c) {
    return c.options.kind == DispatcherKind::Local || c.in_place;
  });
  for (DispatchCase& c : cases) {
    c.options.rows = DType::F8E4m3;
    c.f8_experts = c.odd_rows = true;
  }
  return cases;
}
inline std::vector<DispatchCase> f8_dispatch_cases(int num_ranks, int64_t hidden) {
  return in_f8(dispatch_cases(num_ranks, hidden));
}
inline std::vector<DispatchCase> f8_low_latency_cases(int num_ranks, int64_t hidden) {
  return in_f8(low_latency_cases(num_ranks, hidden));
}

inline std::string name_of(const DispatchCase& c) {
  return std::string(dispatcher_name(c.options.kind)) + "_P" + std::to_string(c.num_ranks) + "_tp" +
         std::to_string(c.options.tp_size) + "_K" + std::to_string(c.config.top_k) +
         (c.options.fetch_rows ? "_fetched" : "") + (c.in_place ? "_in_place" : "") +
         (c.own_sums ? "_own_sums" : "") + (c.f8_experts ? "_f8" : "");
}

// Random numbers of tokens, bounds and skews in a row, some ranks empty, some ids bad.
inline DispatchCase random_calls(int num_ranks, int num_calls, int64_t capacity, uint64_t seed) {
  DispatchCase c;
  c.config = dispatch_config(64, 8, 3);
  c.options.fetch_rows = seed % 2 == 1;
  c.num_ranks = num_ranks;
  c.capacity = capacity;
  std::mt19937_64 rng(seed);
  for (int i = 0; i < num_calls; ++i) {
    DispatchCase::Call call;
    int64_t most = 0;
    for (int r = 0; r < num_ranks; ++r) {
      call.tokens.push_back(
          rng() % 4 == 0 ? 0 : static_cast<int64_t>(rng() % static_cast<uint64_t>(capacity + 1)));
      most = std::max(most, call.tokens.back());
    }
    call.skew = static_cast<Skew>(rng() % 7);
    call.seed = rng() % 1000;
    if (rng() % 2 == 0)
      call.max_tokens =
          most + static_cast<int64_t>(rng() % static_cast<uint64_t>(capacity - most + 1));
    if (rng() % 8 == 0) call.bad_id_on = static_cast<int>(rng() % static_cast<uint64_t>(num_ranks));
    c.calls.push_back(std::move(call));
  }
  return c;
}

}  // namespace switchyard::testing
