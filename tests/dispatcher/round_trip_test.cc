// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/dispatcher/round_trip_test.cc
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <numeric>

#include "base/status.h"
#include "switchyard/backend.h"
#include "switchyard/dispatcher.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::random_ids;
using testing::Skew;

constexpr int64_t kHidden = 64, kExperts = 8, kMaxTokens = 48;

MoeConfig config_of(int64_t top_k) {
  return testing::dispatch_config(kHidden, kExperts, top_k);
}

struct Case {
  DispatcherKind kind;
  int num_ranks;
  int tp_size;
  int64_t top_k;
  Skew skew;

  // Ranks of one tensor-parallel group hold the same tokens; rank 1's group has none.
  int group(int rank) const { return kind == DispatcherKind::Local ? 0 : rank / tp_size; }
  int64_t tokens(int rank) const { return group(rank) == 1 ? 0 : 33 + 2 * group(rank); }
};

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(dispatcher_name(c.kind)) + "_P" + std::to_string(c.num_ranks) + "_tp" +
         std::to_string(c.tp_size) + "_K" + std::to_string(c.top_k) + "_" +
         testing::skew_name(c.skew);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t k : {1, 2, 4})
    for (const Skew skew : {Skew::Balanced, Skew::OneHot, Skew::FirstHalfOnly, Skew::SameExperts}) {
      all.push_back({DispatcherKind::Local, 1, 1, k, skew});
      all.push_back({DispatcherKind::Local, 2, 2, k, skew});
      all.push_back({DispatcherKind::Local, 4, 4, k, skew});
      for (const auto kind :
           {DispatcherKind::Normal, DispatcherKind::AllGather, DispatcherKind::LowLatency})
        for (const auto& [p, tp] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {8, 1}})
          all.push_back({kind, p, tp, k, skew});
    }
  return all;
}

// A rank's tokens: integers up to 64 that name group, token and column.
Buffer<Bf16> tokens_of(const Case& c, int rank) {
  Buffer<Bf16> x({c.tokens(rank), kHidden});
  std::mt19937 rng(static_cast<unsigned>(c.group(rank)) + 7);
  for (int64_t i = 0; i < x.count(); ++i)
    x[i] = Bf16(static_cast<float>(static_cast<int>(rng() % 129) - 64));
  return x;
}

struct Memory {
  explicit Memory(size_t bytes) : buffer({static_cast<int64_t>(bytes / sizeof(int32_t)) + 64}) {}
  Workspace workspace() {
    auto address = reinterpret_cast<uintptr_t>(buffer.data());
    address = (address + Workspace::kAlignment - 1) / Workspace::kAlignment * Workspace::kAlignment;
    return {reinterpret_cast<void*>(address),
            static_cast<size_t>(buffer.count()) * sizeof(int32_t)};
  }
  Buffer<int32_t> buffer;
};

// What identity experts give: the row times the weights of its local slots, as one partial row.
void identity_experts(Buffer<Bf16>& partial, const ReceivedRows& in) {
  const int64_t top_k = in.ids.dim(1);
  const int64_t num_rows = in.num_rows.present() ? in.num_rows.as<int32_t>()[0] : in.ids.dim(0);
  for (int64_t r = 0; r < num_rows; ++r) {
    float weight = 0;
    for (int64_t k = 0; k < top_k; ++k)
      if (in.ids.as<int32_t>()[r * top_k + k] >= 0) weight += in.weights.as<float>()[r * top_k + k];
    for (int64_t h = 0; h < kHidden; ++h)
      partial[r * kHidden + h] =
          Bf16(weight * static_cast<float>(in.source.rows.as<Bf16>()[r * kHidden + h]));
  }
}

class RoundTrip : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, RoundTrip, ::testing::ValuesIn(cases()), name_of);

TEST_P(RoundTrip, IdentityExpertsReturnTheInput) {
  const Case c = GetParam();
  std::atomic<int> good = 0;
  run_local_ranks(c.num_ranks, [&](Communicator& comm) {
    const int rank = comm.rank();
    // All weights are 1/K and K is 1, 2 or 4, so a partial row is x * m / K with m <= 4. For
    // integers |x| <= 64, x * m fits the 8-bit significand of bf16 and the sums are exact: compare
    // bits.
    const auto x = tokens_of(c, rank);
    const int64_t num_tokens = c.tokens(rank);
    const auto ids = random_ids(num_tokens, kExperts, c.top_k, c.skew,
                                100 + static_cast<uint64_t>(c.group(rank)));
    Buffer<float> weights({num_tokens, c.top_k});
    int64_t missing = 0;
    for (int64_t i = 0; i < weights.count(); ++i) {
      weights[i] = 1.0f / static_cast<float>(c.top_k);
      missing += ids[i] < 0;
    }
    ASSERT_EQ(missing, 0);  // 8 experts: the first half has 4, enough for K

    auto backend = make_cpu_backend(1);
    auto dispatcher = make_dispatcher(config_of(c.top_k), {c.kind, c.tp_size}, comm, backend);
    Memory memory(dispatcher->workspace_bytes(kMaxTokens));
    Buffer<int32_t> status({kStatusWords});
    for (int64_t i = 0; i < kStatusWords; ++i) status[i] = 0;
    const auto slice = dispatcher->slice(num_tokens);

    const auto call = dispatcher->dispatch(
        memory.workspace(), x.view(), ids.view().rows(slice.begin, slice.size),
        weights.view().rows(slice.begin, slice.size), kMaxTokens, status.view(), nullptr);
    Buffer<Bf16> partial({dispatcher->max_rows(kMaxTokens), kHidden}), out({num_tokens, kHidden});
    identity_experts(partial, call.received);
    if (c.num_ranks == 1)  // nothing comes back
      std::copy(partial.data(), partial.data() + out.count(), out.data());
    else
      dispatcher->combine(out.view(), {partial.view()}, call, {}, status.view(), nullptr);
    good +=
        same_bits(out, x) && out.guards_intact() && memory.buffer.guards_intact() && status[0] == 0;
  });
  EXPECT_EQ(good, c.num_ranks);
}

TEST(NormalDispatch, RowsStandBySourceRankThenTokenOncePerRankWithLocalIds) {
  constexpr int kRanks = 4;
  constexpr int64_t kTopK = 3, kLocal = kExperts / kRanks;
  std::atomic<int> good = 0;
  run_local_ranks(kRanks, [&](Communicator& comm) {
    const auto tokens = [](int rank) { return int64_t{5 + 3 * rank}; };
    const auto ids_of = [&](int rank) {
      return random_ids(tokens(rank), kExperts, kTopK, Skew::SomeMissing,
                        static_cast<uint64_t>(rank));
    };
    const int64_t t_mine = tokens(comm.rank());
    Buffer<Bf16> x({t_mine, kHidden});
    Buffer<float> weights({t_mine, kTopK});
    for (int64_t i = 0; i < x.count(); ++i)
      x[i] = Bf16(static_cast<float>(i % kHidden == 0   ? comm.rank()
                                     : i % kHidden == 1 ? i / kHidden
                                                        : 1));
    for (int64_t i = 0; i < weights.count(); ++i)
      weights[i] = static_cast<float>(100 * comm.rank() + i);
    const auto ids = ids_of(comm.rank());

    auto dispatcher =
        make_dispatcher(config_of(kTopK), {DispatcherKind::Normal, 1}, comm, make_cpu_backend(1));
    Memory memory(dispatcher->workspace_bytes(kMaxTokens));
    Buffer<int32_t> status({kStatusWords});
    for (int64_t i = 0; i < kStatusWords; ++i) status[i] = 0;
    const auto in = dispatcher
                        ->dispatch(memory.workspace(), x.view(), ids.view(), weights.view(),
                                   kMaxTokens, status.view(), nullptr)
                        .received;

    bool right = true;
    int64_t row = 0;
    for (int s = 0; s < kRanks; ++s) {
      const auto sent = ids_of(s);
      for (int64_t t = 0; t < tokens(s); ++t) {
        std::vector<int32_t> local(kTopK, -1);
        bool mine = false;
        for (int64_t k = 0; k < kTopK; ++k)
          if (const int32_t id = sent[t * kTopK + k]; id >= 0 && id / kLocal == comm.rank()) {
            local[static_cast<size_t>(k)] = static_cast<int32_t>(id % kLocal);
            mine = true;
          }
        if (!mine) continue;
        right &=
            static_cast<float>(in.source.rows.as<Bf16>()[row * kHidden]) == static_cast<float>(s);
        right &= static_cast<float>(in.source.rows.as<Bf16>()[row * kHidden + 1]) ==
                 static_cast<float>(t);
        for (int64_t k = 0; k < kTopK; ++k) {
          right &= in.ids.as<int32_t>()[row * kTopK + k] == local[static_cast<size_t>(k)];
          right &= in.weights.as<float>()[row * kTopK + k] ==
                   static_cast<float>(100 * s + t * kTopK + k);
        }
        ++row;
      }
    }
    good += right && row == in.num_rows.as<int32_t>()[0];
  });
  EXPECT_EQ(good, kRanks);
}

TEST(Dispatch, AnIdOutOfRangeOnOneRankIsNotedOnEveryRank) {
  for (const auto kind : {DispatcherKind::Normal, DispatcherKind::AllGather}) {
    std::vector<StatusWords> seen(3);
    auto config = config_of(2);
    config.num_experts = 9;
    run_local_ranks(3, [&](Communicator& comm) {
      auto ids = random_ids(4, 9, 2, Skew::Balanced, 1);
      if (comm.rank() == 1) ids[3] = 9;
      auto x = testing::random_bf16({4, kHidden}, 3);
      auto weights = testing::random_f32({4, 2}, 4);
      auto dispatcher = make_dispatcher(config, {kind, 1}, comm, make_cpu_backend(1));
      Memory memory(dispatcher->workspace_bytes(8));
      Buffer<int32_t> status({kStatusWords});
      for (int64_t i = 0; i < kStatusWords; ++i) status[i] = 0;
      const auto call = dispatcher->dispatch(memory.workspace(), x.view(), ids.view(),
                                             weights.view(), 8, status.view(), nullptr);
      Buffer<Bf16> partial({dispatcher->max_rows(8), kHidden}), out({4, kHidden});
      for (int64_t i = 0; i < partial.count(); ++i) partial[i] = Bf16(0.0f);
      dispatcher->combine(out.view(), {partial.view()}, call, {}, status.view(), nullptr);
      seen[static_cast<size_t>(comm.rank())] = *status.view().as<StatusWords>();
    });
    for (const auto& s : seen) {
      EXPECT_EQ(s.code, static_cast<int32_t>(Errc::BadRouting)) << dispatcher_name(kind);
      EXPECT_EQ(s.detail, static_cast<int32_t>(StatusDetail::IdOutOfRange));
      EXPECT_EQ(s.value, 9);
    }
  }
}

TEST(MakeDispatcher, RefusesWhatItCannotServe) {
  auto one = make_local_ranks(1);
  auto backend = make_cpu_backend(1);
  const auto message = [&](DispatcherOptions options, MoeConfig config) {
    try {
      make_dispatcher(config, options, *one[0], backend);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message({DispatcherKind::LowLatency, 1}, config_of(2)).find("more than one rank"),
            std::string::npos);
  auto two = make_local_ranks(2);
  EXPECT_THROW(
      make_dispatcher(config_of(2), {.kind = DispatcherKind::Normal, .sums_at_source = true},
                      *two[0], backend),
      Error);
  auto three = make_local_ranks(3);
  EXPECT_THROW(make_dispatcher(config_of(2), {DispatcherKind::Normal, 2}, *three[0], backend),
               Error);  // 3 % 2
}

}  // namespace
}  // namespace switchyard
