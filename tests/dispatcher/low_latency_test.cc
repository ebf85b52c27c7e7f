// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/low_latency_test.cc -- the low-latency dispatcher on threads of the CPU, over
// memory that they reach in each other and over their communicator: what arrives, and what both of its
// sums give, against their definitions.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/status.h"
#include "ops/ops.h"
#include "switchyard/dispatcher.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {
namespace {

constexpr int64_t kHidden = 24;

// Tokens of one rank in one call.
struct Tokens {
  Tokens(int64_t count, int64_t num_experts, int64_t top_k, Skew skew, uint64_t seed)
      : x(random_bf16({count, kHidden}, seed)),
        ids(random_ids(count, num_experts, top_k, skew, seed + 1)),
        weights(random_f32({count, top_k}, seed + 2, 0.1f, 1.0f)),
        addend(random_f32({count, kHidden}, seed + 3)) {}
  int64_t count() const { return x.view().dim(0); }

  Buffer<Bf16> x;
  Buffer<int32_t> ids;
  Buffer<float> weights, addend;
};

// What expert `e` makes of a number: of every expert something else.
Bf16 expert(int64_t e, Bf16 x) {
  return Bf16(static_cast<float>(x) * (1.0f + 0.3f * static_cast<float>(e % 17)));
}

// What experts get of a row that travels in f8_e4m3: codes times their one scale.
Buffer<Bf16> quantised(const Buffer<Bf16>& x) {
  static_assert(kHidden <= kQuantGroup);
  Buffer<Bf16> rows(x.view().shape);
  for (int64_t first = 0; first < x.count(); first += kHidden) {
    float most = 1e-10f;
    for (int64_t i = first; i < first + kHidden; ++i)
      most = std::max(most, std::abs(static_cast<float>(x[i])));
    const float scale = most / 448;
    for (int64_t i = first; i < first + kHidden; ++i)
      rows[i] = Bf16(static_cast<float>(F8E4m3(static_cast<float>(x[i]) / scale)) * scale);
  }
  return rows;
}

// Outputs by their definition: of owners' partial sums in rank order, or of all experts' rows in the
// order of the slots.
Buffer<Bf16> expected_output(const Tokens& in, const Buffer<Bf16>& rows, int64_t per_rank,
                             int num_ranks, bool at_source) {
  Buffer<Bf16> out({in.count(), kHidden});
  const int64_t top_k = in.ids.view().dim(1);
  for (int64_t t = 0; t < in.count(); ++t)
    for (int64_t h = 0; h < kHidden; ++h) {
      const Bf16 x = rows[t * kHidden + h];
      const auto sum_of = [&](int64_t first, int64_t end) {
        float sum = 0;
        for (int64_t s = t * top_k; s < (t + 1) * top_k; ++s)
          if (in.ids[s] >= first && in.ids[s] < end)
            sum += in.weights[s] * static_cast<float>(expert(in.ids[s], x));
        return sum;
      };
      float sum = 0;
      if (at_source) sum = sum_of(0, per_rank * num_ranks);
      for (int p = 0; !at_source && p < num_ranks; ++p)
        sum += static_cast<float>(Bf16(sum_of(p * per_rank, (p + 1) * per_rank)));
      out[t * kHidden + h] = Bf16(sum + in.addend[t * kHidden + h]);
    }
  return out;
}

struct Case {
  int num_ranks = 2;
  int64_t num_experts = 8, top_k = 2;
  bool over_peer_memory = true;
  bool at_source = false;
  bool f8_rows = false;

  int64_t per_rank() const { return experts_of_rank(num_experts, num_ranks); }
  MoeConfig config() const { return dispatch_config(kHidden, num_experts, top_k); }
};

Buffer<Bf16> expected_output(const Tokens& in, const Case& c) {
  return expected_output(in, c.f8_rows ? quantised(in.x) : in.x, c.per_rank(), c.num_ranks,
                         c.at_source);
}

// One rank with its experts.
class Rank {
 public:
  Rank(const Case& c, Communicator& comm, int64_t capacity)
      : case_(c),
        rank_(comm.rank()),
        backend_(make_cpu_backend(1)),
        dispatcher_(make_dispatcher(c.config(),
                                    {.kind = DispatcherKind::LowLatency,
                                     .peer_memory = c.over_peer_memory,
                                     .rows = c.f8_rows ? DType::F8E4m3 : DType::Bf16,
                                     .sums_at_source = c.at_source},
                                    comm, backend_)),
        bytes_(dispatcher_->workspace_bytes(capacity)),
        memory_(allocate(*backend_, bytes_)),
        expert_rows_({dispatcher_->max_rows(capacity) * c.top_k, kHidden}),
        row_of_slot_({dispatcher_->max_rows(capacity), c.top_k}),
        room_({dispatcher_->max_rows(capacity), kHidden}) {
    dispatcher_->connect(workspace(), capacity, memory_);
  }

  ReceivedRows dispatch(const Tokens& in, int64_t max_tokens) {
    call_ = dispatcher_->dispatch(workspace(), in.x.view(), in.ids.view(), in.weights.view(),
                                  max_tokens, status(), nullptr);
    return call_.received;
  }

  // Rows of experts in places that say nothing of their slots.
  SlotSums experts() {
    const ReceivedRows& in = call_.received;
    const int64_t num_rows = in.num_rows.as<int32_t>()[0], top_k = case_.top_k;
    const int64_t num_places = expert_rows_.view().dim(0);
    for (int64_t i = 0; i < expert_rows_.count(); ++i) expert_rows_[i] = Bf16::from_bits(kNanBits);
    for (int64_t s = 0; s < row_of_slot_.count(); ++s) {
      const int32_t local = s < num_rows * top_k ? in.ids.as<int32_t>()[s] : kNoExpert;
      row_of_slot_[s] = local < 0 ? kNoRow : static_cast<int32_t>(num_places - 1 - s);
      if (local < 0) continue;
      for (int64_t h = 0; h < kHidden; ++h)
        expert_rows_[row_of_slot_[s] * kHidden + h] =
            expert(rank_ * case_.per_rank() + local, number(in.source, s / top_k, h));
    }
    return {expert_rows_.view(), row_of_slot_.view().rows(0, in.ids.dim(0)), in.weights};
  }

  Buffer<Bf16> combine(const Tokens& in) {
    Buffer<Bf16> out({in.count(), kHidden});
    const PartialRows partial = dispatcher_->sum_experts(experts(), call_, room_.view(), nullptr);
    dispatcher_->combine(out.view(), partial, call_, {in.addend.view(), {}}, status(), nullptr);
    return out;
  }

  bool good() const { return words_[0] == 0; }

 private:
  static Bf16 number(const RowSource& source, int64_t row, int64_t h) {
    const int64_t at = row * kHidden + h;
    if (!source.scales.present()) return source.rows.as<Bf16>()[at];
    return Bf16(static_cast<float>(source.rows.as<F8E4m3>()[at]) * source.scales.as<float>()[row]);
  }
  Workspace workspace() const { return {memory_.get(), bytes_}; }
  Tensor status() { return Tensor(words_, {kStatusWords}); }

  Case case_;
  int rank_;
  std::shared_ptr<Backend> backend_;
  std::unique_ptr<Dispatcher> dispatcher_;
  size_t bytes_;
  std::shared_ptr<void> memory_;
  Buffer<Bf16> expert_rows_;
  Buffer<int32_t> row_of_slot_;
  Buffer<Bf16> room_;
  DispatchedCall call_;
  int32_t words_[kStatusWords] = {};
};

uint64_t seed_of(int call, int rank) {
  return static_cast<uint64_t>(call) * 1000 + static_cast<uint64_t>(rank) * 10;
}

// Calls of which some ranks have no tokens; how many were wrong, of all ranks together.
int wrong_calls(const Case& c, int64_t capacity, int num_calls, bool some_are_slow = false) {
  std::atomic<int> wrong = 0;
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    Rank rank(c, comm, capacity);
    for (int i = 0; i < num_calls; ++i) {
      std::mt19937_64 of_call(static_cast<uint64_t>(i)), own(seed_of(i, comm.rank()));
      const auto skew = static_cast<Skew>(of_call() % 7);
      const auto max_tokens = 1 + static_cast<int64_t>(of_call() % static_cast<uint64_t>(capacity));
      const auto count = static_cast<int64_t>(own() % static_cast<uint64_t>(max_tokens + 1));
      const Tokens in(count, c.num_experts, c.top_k, skew, seed_of(i, comm.rank()));
      if (some_are_slow && own() % 8 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(own() % 2000));
      rank.dispatch(in, max_tokens);
      if (some_are_slow && own() % 8 == 0)
        std::this_thread::sleep_for(std::chrono::microseconds(own() % 2000));
      const auto out = rank.combine(in);
      wrong += !rank.good() || !out.guards_intact() || !same_bits(out, expected_output(in, c));
    }
  });
  return wrong;
}

TEST(LowLatency, OutputsAreWhatTheirSumsDefine) {
  for (const bool over_peer_memory : {true, false})
    for (const bool at_source : {false, true})
      for (const int num_ranks : {2, 3, 4, 8})
        for (const int64_t top_k : {1, 2, 9})
          for (const bool f8_rows : {false, true})
            EXPECT_EQ(
                wrong_calls({num_ranks, 24, top_k, over_peer_memory, at_source, f8_rows}, 17, 30),
                0)
                << num_ranks << " ranks, K " << top_k << (at_source ? ", at source" : "")
                << (over_peer_memory ? ", peer memory" : "") << (f8_rows ? ", rows in f8" : "");
}

TEST(LowLatency, ATokenMayChooseSixtyFourExpertsAndARankHaveFourThousandTokens) {
  for (const bool at_source : {false, true}) {
    EXPECT_EQ(wrong_calls({4, 64, 64, true, at_source}, 7, 5), 0) << at_source;
    EXPECT_EQ(wrong_calls({2, 8, 3, true, at_source}, 4096, 1), 0) << at_source;
  }
}

TEST(LowLatency, TenThousandCallsWithOtherIdsOnOneWindow) {
  EXPECT_EQ(wrong_calls({2, 8, 2}, 5, 10000), 0);
  EXPECT_EQ(wrong_calls({3, 9, 2, true, true}, 3, 2000), 0);
  EXPECT_EQ(wrong_calls({2, 8, 2, true, false, true}, 5, 2000), 0);
  EXPECT_EQ(wrong_calls({4, 8, 2, true, true, true}, 3, 2000), 0);
}

TEST(LowLatency, SlowRanksChangeNothing) {
  for (const bool at_source : {false, true})
    for (const bool f8_rows : {false, true})
      EXPECT_EQ(wrong_calls({4, 8, 2, true, at_source, f8_rows}, 6, 200, true), 0)
          << at_source << f8_rows;
}

// An id that a token names twice has two slots, each with its weight.
TEST(LowLatency, RepeatedIdsAreSummedOncePerSlot) {
  for (const bool over_peer_memory : {true, false})
    for (const bool at_source : {false, true}) {
      const Case c{2, 8, 4, over_peer_memory, at_source};
      std::atomic<int> right = 0;
      run_local_ranks(2, [&](Communicator& comm) {
        Rank rank(c, comm, 9);
        Tokens in(9, 8, 4, Skew::Balanced, seed_of(3, comm.rank()));
        for (int64_t s = 0; s < in.ids.count(); s += 2) in.ids[s + 1] = in.ids[s];
        rank.dispatch(in, 9);
        right += same_bits(rank.combine(in), expected_output(in, c));
      });
      EXPECT_EQ(right, 2) << at_source << over_peer_memory;
    }
}

TEST(LowLatency, RowsOfASourceFillItsBlockFromTheFirstPlaceInTheOrderOfItsTokens) {
  constexpr int kRanks = 3;
  constexpr int64_t kBound = 11;
  const Case c{kRanks, 9, 2};
  std::atomic<int> right = 0;
  run_local_ranks(kRanks, [&](Communicator& comm) {
    Rank rank(c, comm, 20);
    const auto tokens_of = [&](int call, int r) {
      return Tokens(r == 1 ? 0 : 5 + 3 * r, 9, 2, call == 0 ? Skew::Balanced : Skew::SomeMissing,
                    seed_of(call, r));
    };
    for (int call = 0; call < 2; ++call) {
      const Tokens mine = tokens_of(call, comm.rank());
      const ReceivedRows in = rank.dispatch(mine, kBound);
      bool good = in.has_gaps;
      int64_t end = 0;
      for (int s = 0; s < kRanks; ++s) {
        const Tokens sent = tokens_of(call, s);
        int64_t row = s * kBound;
        for (int64_t t = 0; t < sent.count(); ++t) {
          const int32_t* id = sent.ids.data() + t * 2;
          const auto is_here = [&](int k) { return id[k] >= 0 && id[k] / 3 == comm.rank(); };
          if (!is_here(0) && !is_here(1)) continue;
          for (int k = 0; k < 2; ++k) {
            good &= in.ids.as<int32_t>()[row * 2 + k] == (is_here(k) ? id[k] % 3 : kNoExpert);
            good &= in.weights.as<float>()[row * 2 + k] == sent.weights[t * 2 + k];
          }
          for (int64_t h = 0; h < kHidden; ++h)
            good &= in.source.rows.as<Bf16>()[row * kHidden + h].bits() ==
                    sent.x[t * kHidden + h].bits();
          end = ++row;
        }
        for (; row < (s + 1) * kBound; ++row)
          for (int k = 0; k < 2; ++k) good &= in.ids.as<int32_t>()[row * 2 + k] == kNoExpert;
      }
      good &= in.num_rows.as<int32_t>()[0] == end;
      right += good;
      rank.combine(mine);
    }
  });
  EXPECT_EQ(right, 2 * kRanks);
}

TEST(LowLatency, MoreTokensThanTheBoundAreRefusedWithBoth) {
  run_local_ranks(2, [](Communicator& comm) {
    Rank rank({}, comm, 4);
    try {
      rank.dispatch(Tokens(5, 8, 2, Skew::Balanced, 1), 4);
      ADD_FAILURE() << "not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch);
      EXPECT_NE(std::string(e.what()).find("tokens=5, at most max_tokens=4"), std::string::npos)
          << e.what();
    }
  });
}

// A rank that comes with an error sends nothing, all learn of it, and the next call is good.
TEST(LowLatency, AnErrorBeforeOrInACallReachesEveryRankAndTheNextCallIsGood) {
  for (const bool at_source : {false, true}) {
    std::atomic<int> told = 0, right = 0, nan = 0;
    run_local_ranks(3, [&](Communicator& comm) {
      const Case c{3, 9, 2, true, at_source};
      const auto backend = make_cpu_backend(1);
      const auto dispatcher = make_dispatcher(
          c.config(),
          {.kind = DispatcherKind::LowLatency, .peer_memory = true, .sums_at_source = at_source},
          comm, backend);
      const size_t bytes = dispatcher->workspace_bytes(4);
      const auto memory = allocate(*backend, bytes);
      std::memset(memory.get(), 0x7f, bytes);  // nothing of it may be taken for an index
      dispatcher->connect({memory.get(), bytes}, 4, memory);
      EXPECT_TRUE(dispatcher->combine_poisons());
      for (const bool is_id : {false, true}) {
        Tokens in(4, 9, 2, Skew::Balanced, seed_of(1, comm.rank()));
        if (is_id && comm.rank() == 1) in.ids[5] = 9;
        StatusWords status;
        if (!is_id && comm.rank() == 1)
          note(status, Errc::BadRouting, StatusDetail::IdOutOfRange, 1, 77);
        const Tensor words(reinterpret_cast<int32_t*>(&status), {kStatusWords});
        const auto call = dispatcher->dispatch({memory.get(), bytes}, in.x.view(), in.ids.view(),
                                               in.weights.view(), 4, words, nullptr);
        EXPECT_EQ(call.received.num_rows.as<int32_t>()[0], 0);
        Buffer<Bf16> out({4, kHidden});
        for (int64_t i = 0; i < out.count(); ++i) out[i] = Bf16(1.0f);
        dispatcher->combine(out.view(), dispatcher->sum_experts({}, call, {}, nullptr), call, {},
                            words, nullptr);
        told += status.detail == static_cast<int32_t>(StatusDetail::IdOutOfRange) &&
                status.rank == 1 && status.value == (is_id ? 9 : 77);
        nan += std::isnan(static_cast<float>(out[3 * kHidden]));
      }
      Rank rank(c, comm, 4);
      const Tokens in(4, 9, 2, Skew::Balanced, seed_of(2, comm.rank()));
      rank.dispatch(in, 4);
      right += same_bits(rank.combine(in), expected_output(in, c));
    });
    EXPECT_EQ(told, 6);
    EXPECT_EQ(nan, 6);
    EXPECT_EQ(right, 3);
  }
}

}  // namespace
}  // namespace switchyard::testing
