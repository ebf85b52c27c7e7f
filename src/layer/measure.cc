// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/measure.cc -- a forward and its operations, timed.
#include "switchyard/measure.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "base/backend.h"
#include "base/require.h"
#include "device/cuda_device.h"
#include "device/stopwatch.h"
#include "ops/ops.h"

namespace switchyard {
namespace {

struct Spread {
  double median, min, max;
};

Spread spread_of(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us.front(), us.back()};
}

// A line for each operation by its name, in order of first calls. Names are literals.
class Lines {
 public:
  OpTime& of(const char* op) {
    const auto found = std::find(names_.begin(), names_.end(), op);
    const auto at = static_cast<size_t>(found - names_.begin());
    if (found == names_.end()) {
      names_.push_back(op);
      times.emplace_back().op = op;
    }
    return times[at];
  }

  std::vector<OpTime> times;

 private:
  std::vector<const char*> names_;
};

OpTime layer_time(const ForwardArgs& args, const std::vector<double>& us) {
  const Spread s = spread_of(us);
  OpTime time;
  time.op = args.ids.present() ? "layer_given_routing" : "layer";
  time.us = s.median, time.min_us = s.min, time.max_us = s.max;
  time.is_layer = true;
  return time;
}

// ---- CUDA

struct OpCall {
  AnyOp op;
  Phase phase;
};

// The calls of one forward, run as they come.
class CallList final : public Ops {
 public:
  explicit CallList(Ops& ops) : ops_(ops) {}
  const std::vector<OpCall>& calls() const { return calls_; }

  void run(const AnyOp& op, CUstream_st* stream) override {
    ops_.run(op, stream);
    calls_.push_back({op, phase_});
  }
  void begin(Phase phase) override { phase_ = phase; }

 private:
  Ops& ops_;
  Phase phase_ = Phase::Gate;
  std::vector<OpCall> calls_;
};

// Another forward, which says where its phases begin.
class WatchedPhases final : public Ops {
 public:
  WatchedPhases(Ops& ops, std::function<void(Phase)> begins)
      : ops_(ops), begins_(std::move(begins)) {}

  void run(const AnyOp& op, CUstream_st* stream) override { ops_.run(op, stream); }
  void begin(Phase phase) override { begins_(phase); }

 private:
  Ops& ops_;
  std::function<void(Phase)> begins_;
};

class Diversion {
 public:
  Diversion(Backend& backend, Ops& ops) : backend_(backend) { backend_.divert(&ops); }
  ~Diversion() { backend_.divert(nullptr); }
  Diversion(const Diversion&) = delete;
  Diversion& operator=(const Diversion&) = delete;

 private:
  Backend& backend_;
};

class CudaMeasurement {
 public:
  CudaMeasurement(MoeLayer& layer, const ForwardArgs& args, Backend& backend,
                  const MeasureOptions& options)
      : layer_(layer),
        args_(args),
        backend_(backend),
        options_(options),
        watch_(make_cuda_stopwatch(backend)),
        calls_(backend.ops()) {
    args_.stream = watch_->stream();
  }

  std::vector<OpTime> run() {
    options_.meet();
    record();
    if (const auto await = await_of_call()) return run_over_peers(*await);
    if (find_call<NoteEnded>(0) < num_calls()) return run_over_link();
    OpTime whole;
    if (options_.whole) whole = measure_whole();
    // The recorded forward left its buffers as its first call found them, or better.
    Lines all;
    for (const OpCall& call : calls_.calls()) measure(call, all, whole);
    std::vector<OpTime> lines = std::move(all.times);
    if (options_.only)
      std::erase_if(lines, [&](const OpTime& line) { return line.phase != options_.only; });
    whole.bytes += static_cast<double>(args_.hidden.bytes() + args_.output.bytes());
    layer_.wait(watch_->stream());
    if (options_.whole) lines.push_back(whole);
    return lines;
  }

 private:
  OpTime measure_whole() {
    OpTime whole = layer_time(args_, replay([this](CUstream_st*) { layer_.forward(args_); }));
    whole.num_kernels = watch_->num_kernels();
    whole.num_operations = static_cast<int>(num_calls());
    layer_.wait(watch_->stream());
    return whole;
  }

  Cache cache() const { return options_.cold ? Cache::Cold : Cache::Warm; }

  size_t num_calls() const { return calls_.calls().size(); }

  // The next call from `first` on that is one, or the end.
  template <class Is>
  size_t find_if(size_t first, const Is& is) const {
    const auto& calls = calls_.calls();
    return static_cast<size_t>(
        std::find_if(calls.begin() + static_cast<std::ptrdiff_t>(first), calls.end(), is) -
        calls.begin());
  }
  template <class Op>
  size_t find_call(size_t first) const {
    return find_if(first, [](const OpCall& c) { return std::holds_alternative<Op>(c.op); });
  }
  // What ranks that reach into each other's memory wait for at the beginning of a call. Low latency
  // has it in one operation with its rows: alone it is this one, gaps taken for rows that may come.
  std::optional<AwaitRows> await_of_call() const {
    if (const size_t i = find_call<AwaitRows>(0); i < num_calls())
      return std::get<AwaitRows>(calls_.calls()[i].op);
    const size_t i = find_call<DeliverRows>(0);
    if (i == num_calls()) return {};
    const auto& d = std::get<DeliverRows>(calls_.calls()[i].op);
    return AwaitRows{.window = d.window,
                     .max_tokens = d.max_tokens,
                     .num_tokens = d.num_tokens,
                     .placement = d.placement,
                     .tp_size = d.tp_size,
                     .num_rows = d.num_rows,
                     .rows = d.window.num_ranks * d.block,
                     .status = d.status};
  }
  size_t find_phase(size_t first, Phase phase) const {
    return find_if(first, [&](const OpCall& c) { return c.phase == phase; });
  }

  // Where dispatch ends and combine begins.
  struct Parts {
    size_t experts, combine;
    bool whole;  // pieces of a call overlap: there its parts are none
  };
  Parts parts() const {
    const size_t experts = find_phase(0, Phase::Experts),
                 combine = find_phase(experts, Phase::Combine);
    return {experts, combine, find_phase(combine, Phase::Experts) == num_calls()};
  }

  Enqueue calls_between(size_t begin, size_t end) const {
    return [this, begin, end](CUstream_st* stream) {
      for (size_t i = begin; i < end; ++i) run(calls_.calls()[i], stream);
    };
  }

  void run(const OpCall& call, CUstream_st* stream) const { backend_.ops().run(call.op, stream); }

  Work work(const OpCall& call) {
    return work_of(call.op, [this](ConstTensor t) { return read_i32(t); });
  }

  // What the parts of a forward over ranks have to do; of dispatch and combine what crosses links.
  struct PartWork {
    Work dispatch, combine, layer;
  };
  PartWork part_work(const Parts& parts) {
    PartWork w;
    for (size_t i = 0; i < num_calls(); ++i) {
      const OpCall& call = calls_.calls()[i];
      const Work of_call = work(call);
      if (i < parts.experts) w.dispatch.bytes += of_call.link_bytes;
      if (i >= parts.combine) w.combine.bytes += of_call.link_bytes;
      add_to_layer(w.layer, call, of_call);
    }
    w.layer.bytes += static_cast<double>(args_.hidden.bytes() + args_.output.bytes());
    return w;
  }

  // The definition of a layer's floor knows experts only: the router is the gate's.
  template <class Total>
  static void add_to_layer(Total& layer, const OpCall& call, const Work& of_call) {
    if (call.phase == Phase::Gate || of_call.weight_bytes == 0) return;
    layer.bytes += of_call.weight_bytes;
    layer.flops += of_call.flops;
    layer.f8_flops += of_call.f8_flops;
  }

  static void add_part(std::vector<OpTime>& lines, Phase phase, const char* op,
                       const std::vector<double>& us, const Work& work) {
    const Spread s = spread_of(us);
    lines.push_back({op, s.median, s.min, s.max, work.bytes, work.flops, false, false, phase});
    lines.back().f8_flops = work.f8_flops;
  }

  void add_layer(std::vector<OpTime>& lines, const std::vector<double>& us,
                 const Work& work) const {
    lines.push_back(layer_time(args_, us));
    lines.back().bytes = work.bytes, lines.back().flops = work.flops;
    lines.back().f8_flops = work.f8_flops;
    lines.back().num_operations = static_cast<int>(num_calls());
  }

  static void add_parts(std::vector<OpTime>& lines, const std::vector<std::vector<double>>& us,
                        const PartWork& work) {
    add_part(lines, Phase::Dispatch, "dispatch", us[0], work.dispatch);
    add_part(lines, Phase::Experts, "experts", us[1], work.layer);
    add_part(lines, Phase::Combine, "combine", us[2], work.combine);
  }

  // No call can run without those that peers wait for, so the parts of a forward are timed where
  // they stand in it. Each part begins by waiting for rows that nobody sends: ranks start
  // it together, and no part has to wait for a rank that was late with the one before.
  std::vector<OpTime> run_over_peers(const AwaitRows& await) {
    const size_t end = num_calls();
    const Parts at = parts();
    const Enqueue lead_in = [&](CUstream_st* stream) { backend_.ops().run(await, stream); };
    const auto time = [&](const std::vector<Enqueue>& parts) {
      const auto num = static_cast<int>(parts.size());
      const auto enqueue = [&](CUstream_st* stream, const Mark& mark) {
        for (int i = 0; i < num; ++i) {
          lead_in(stream);
          mark(i, Edge::Begin);
          parts[static_cast<size_t>(i)](stream);
          mark(i, Edge::End);
        }
      };
      return watch_->replay_parts(num, enqueue, options_.meet, options_.repeat, cache());
    };
    std::vector<OpTime> lines;
    const PartWork work = part_work(at);
    if (at.whole)
      add_parts(lines,
                time({calls_between(0, at.experts), calls_between(at.experts, at.combine),
                      calls_between(at.combine, end)}),
                work);
    const Enqueue forward = [this](CUstream_st*) { layer_.forward(args_); };
    add_layer(lines, time({forward})[0], work.layer);
    layer_.wait(watch_->stream());
    return lines;
  }

  // What travels over a link is no call of an operation, so parts are timed within a forward. One
  // that is not timed goes before it: ranks end that together.
  std::vector<OpTime> run_over_link() {
    const Parts at = parts();
    const PartWork work = part_work(at);
    const Enqueue forward = [this](CUstream_st*) { layer_.forward(args_); };
    std::vector<OpTime> lines;
    std::vector<double> us_of_layer;
    bool eager = false;
    int num_kernels = 0;
    try {
      us_of_layer = watch_->replay(forward, options_.repeat, cache());
      num_kernels = watch_->num_kernels();
    } catch (const Error& e) {  // on every rank, before anything is enqueued
      if (e.code() != Errc::Unsupported) throw;
      eager = true;
      us_of_layer = watch_->repeat(forward, options_.repeat, cache());
    }
    if (at.whole && !eager) {
      const auto enqueue = [&](CUstream_st* stream, const Mark& mark) {
        const auto next = [&](int part) { mark(part - 1, Edge::End), mark(part, Edge::Begin); };
        WatchedPhases phases(backend_.ops(), [&](Phase phase) {
          if (phase == Phase::Experts) next(1);
          if (phase == Phase::Combine) next(2);
        });
        layer_.forward(args_);
        if (options_.cold) watch_->flush(stream);
        mark(0, Edge::Begin);
        const Diversion diversion(backend_, phases);
        layer_.forward(args_);
        mark(2, Edge::End);
      };
      const auto us = watch_->replay_parts(3, enqueue, options_.meet, options_.repeat, Cache::Warm);
      add_parts(lines, us, work);
    }
    add_layer(lines, us_of_layer, work.layer);
    lines.back().eager = eager;
    lines.back().num_kernels = num_kernels;
    layer_.wait(watch_->stream());
    return lines;
  }

  // An ordinary forward, so that kernels are loaded and errors come before anything is captured.
  void record() {
    {
      const Diversion diversion(backend_, calls_);
      layer_.forward(args_);
    }
    layer_.wait(watch_->stream());
  }

  std::vector<double> replay(const Enqueue& enqueue) {
    return watch_->replay(enqueue, options_.repeat, cache());
  }

  // Called in the order of the forward: each call finds what those before it wrote, and GEMM2 may
  // overwrite what GEMM1 read.
  void measure(const OpCall& call, Lines& lines, OpTime& whole) {
    OpTime& line = lines.of(name_of(call.op));
    if (!line.phase) line.phase = call.phase;
    if (!options_.only || call.phase == options_.only) {
      const Spread us = spread_of(replay([&](CUstream_st* stream) { run(call, stream); }));
      line.us += us.median, line.min_us += us.min, line.max_us += us.max;
    } else {
      run(call, watch_->stream());
    }
    const Work of_call = work(call);
    line.bytes += of_call.bytes, line.flops += of_call.flops;
    line.f8_flops += of_call.f8_flops;
    add_to_layer(whole, call, of_call);
  }

  std::vector<int32_t> read_i32(ConstTensor t) {
    std::vector<int32_t> values(static_cast<size_t>(t.count()));
    copy_to_host(backend_, values.data(), t, watch_->stream());
    return values;
  }

  MoeLayer& layer_;
  ForwardArgs args_;
  Backend& backend_;
  MeasureOptions options_;
  std::unique_ptr<Stopwatch> watch_;
  CallList calls_;
};

// ---- CPU

// What one operation took in each forward.
class Trace {
 public:
  void begin_forward() {
    for (auto& line : lines_.times) line.bytes = line.flops = 0;
    gemm_bytes_ = 0;
    num_operations_ = 0;
    for (auto& us : us_) us.push_back(0);
    ++num_forwards_;
  }
  void note(const OpEvent& e) {
    ++num_operations_;
    OpTime& line = lines_.of(e.op);
    const auto at = static_cast<size_t>(&line - lines_.times.data());
    // An operation that earlier forwards did not need took no time in them.
    if (at == us_.size()) us_.emplace_back(num_forwards_, 0.0);
    us_[at].back() += e.us;
    line.bytes += e.bytes;
    line.flops += e.flops;
    if (e.weight_bytes > 0) gemm_bytes_ += e.bytes;
  }
  // Of the last forward: of a layer only weights and the rows in and out have to move.
  double gemm_bytes() const { return gemm_bytes_; }
  int num_operations() const { return num_operations_; }
  std::vector<OpTime> lines() const {
    auto lines = lines_.times;
    for (size_t i = 0; i < lines.size(); ++i) {
      const Spread us = spread_of(us_[i]);
      lines[i].us = us.median, lines[i].min_us = us.min, lines[i].max_us = us.max;
    }
    return lines;
  }

 private:
  Lines lines_;                          // bytes and flops of the last forward
  std::vector<std::vector<double>> us_;  // of each line, one per forward
  size_t num_forwards_ = 0;
  double gemm_bytes_ = 0;
  int num_operations_ = 0;
};

double us_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

// The layer alone first, then again with every operation observed.
std::vector<OpTime> measure_on_host(MoeLayer& layer, const ForwardArgs& args, Backend& backend,
                                    const MeasureOptions& options) {
  const auto once = [&] {
    const auto start = std::chrono::steady_clock::now();
    layer.forward(args);
    layer.wait();
    return us_since(start);
  };
  once();
  std::vector<double> us(static_cast<size_t>(options.repeat));
  for (double& each : us) each = once();

  Trace trace;
  observe_operations(backend, [&trace](const OpEvent& e) { trace.note(e); });
  for (int i = 0; i < options.repeat; ++i) trace.begin_forward(), once();
  observe_operations(backend, {});
  auto lines = trace.lines();
  OpTime whole = layer_time(args, us);
  for (const auto& line : lines) whole.flops += line.flops;
  whole.bytes = trace.gemm_bytes();
  whole.num_operations = trace.num_operations();
  lines.push_back(whole);
  return lines;
}

}  // namespace

DeviceRates measure_device(Backend& backend) {
  SWITCHYARD_REQUIRE(backend.kind() == DeviceKind::Cuda, Unsupported,
                     "measure_device: device=cpu, rates are measured of CUDA devices. Use ",
                     "make_cuda_backend.");
  return measure_cuda_device(backend);
}

double measure_link(Backend& from, Backend& to, int64_t bytes) {
  SWITCHYARD_REQUIRE(from.kind() == DeviceKind::Cuda && to.kind() == DeviceKind::Cuda, Unsupported,
                     "measure_link: device=cpu, links are between CUDA devices. Use ",
                     "make_cuda_backend.");
  SWITCHYARD_REQUIRE(bytes >= 2, ShapeMismatch, "measure_link: bytes=", bytes,
                     ", need at least 2.");
  return measure_cuda_link(from, to, bytes);
}

double floor_us(const OpTime& time, const DeviceRates& rates) {
  const double gbps = time.is_layer ? rates.read_gbps : rates.copy_gbps;
  // Sums outside GEMMs (a gather's) are not tensor-core work, but never the limit either.
  const double f8_rate = rates.f8_gemm_tflops > 0 ? rates.f8_gemm_tflops : 2 * rates.gemm_tflops;
  const double compute =
      rates.gemm_tflops > 0
          ? ((time.flops - time.f8_flops) / rates.gemm_tflops + time.f8_flops / f8_rate) * 1e-6
          : 0;
  return std::max(compute, gbps > 0 ? time.bytes / gbps * 1e-3 : 0);
}

OpTime measure_operation(const std::function<void(CUstream_st*)>& enqueue, Backend& backend,
                         const MeasureOptions& options) {
  SWITCHYARD_REQUIRE(options.repeat >= 1, ShapeMismatch,
                     "measure_operation: repeat=", options.repeat, ", need at least 1.");
  const bool cuda = backend.kind() == DeviceKind::Cuda;
  const auto watch = cuda ? make_cuda_stopwatch(backend) : nullptr;
  CUstream_st* stream = cuda ? watch->stream() : nullptr;
  CallList list(backend.ops());
  {
    const Diversion diversion(backend, list);
    enqueue(stream);
  }
  OpTime time;
  for (const OpCall& call : list.calls()) {
    const Work work = work_of(call.op, [&](ConstTensor t) {
      std::vector<int32_t> values(static_cast<size_t>(t.count()));
      copy_to_host(backend, values.data(), t, stream);
      return values;
    });
    if (time.op.empty()) time.op = name_of(call.op);
    time.bytes += work.bytes, time.flops += work.flops;
    time.f8_flops += work.f8_flops;
  }
  std::vector<double> us;
  if (cuda) {
    us = watch->replay(enqueue, options.repeat, options.cold ? Cache::Cold : Cache::Warm);
  } else {
    for (int i = 0; i < options.repeat; ++i) {
      const auto start = std::chrono::steady_clock::now();
      enqueue(nullptr);
      us.push_back(us_since(start));
    }
  }
  const Spread spread = spread_of(us);
  time.us = spread.median, time.min_us = spread.min, time.max_us = spread.max;
  return time;
}

std::vector<OpTime> measure_forward(MoeLayer& layer, const ForwardArgs& args, Backend& backend,
                                    const MeasureOptions& options) {
  SWITCHYARD_REQUIRE(options.repeat >= 1, ShapeMismatch, "measure_forward: repeat=", options.repeat,
                     ", need at least 1.");
  if (backend.kind() == DeviceKind::Cpu) return measure_on_host(layer, args, backend, options);
  return CudaMeasurement(layer, args, backend, options).run();
}

}  // namespace switchyard
