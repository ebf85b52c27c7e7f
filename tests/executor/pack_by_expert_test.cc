// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/executor/pack_by_expert_test.cc -- rows by expert, against their definition; and experts of a
// program's own between a dispatch and its combine.
#include <gtest/gtest.h>

#include "base/status.h"
#include "switchyard/executor.h"
#include "testing/error_of.h"
#include "testing/peer_dispatch.h"

namespace switchyard::testing {
namespace {

constexpr int64_t kHidden = 24;

struct Memory {
  Memory(Backend& backend, size_t size) : bytes(size), data(allocate(backend, size)) {
    std::memset(data.get(), 0xff, size);  // NaN, and no index
  }
  Workspace view() const { return {data.get(), bytes}; }

  size_t bytes;
  std::shared_ptr<void> data;
};

TEST(PackByExpert, GivesTheRowsOfEachExpertInTheirOrder) {
  const auto backend = make_cpu_backend(2);
  for (const int64_t num_rows : {0, 1, 70})
    for (const auto skew : {Skew::Balanced, Skew::OneHot, Skew::SomeMissing, Skew::NoExpert}) {
      const PackShape shape{.max_rows = 80, .top_k = 3, .num_experts = 8, .hidden = kHidden};
      const auto x = random_bf16({80, kHidden}, 1);
      const auto ids = random_ids(80, 8, 3, skew, 2);
      const auto weights = random_f32({80, 3}, 3);
      Buffer<int32_t> received({1});
      received[0] = static_cast<int32_t>(num_rows);
      const Memory memory(*backend, pack_by_expert_bytes(shape));
      StatusWords words;
      const auto packed = pack_by_expert(*backend,
                                         {.source = {x.view()},
                                          .ids = ids.view(),
                                          .weights = weights.view(),
                                          .num_rows = received.view()},
                                         shape, memory.view(), Tensor(&words.code, {kStatusWords}));
      EXPECT_TRUE(words.good());
      ASSERT_EQ(packed.rows.shape, (Shape{8, 80, kHidden}));
      for (int32_t e = 0; e < 8; ++e) {
        int64_t n = 0;
        for (int64_t s = 0; s < 80 * 3; ++s) {
          const int32_t row = packed.row_of_slot.as<int32_t>()[s];
          if (s >= num_rows * 3 || ids[s] < 0) {
            EXPECT_EQ(row, -1);
          } else if (ids[s] == e) {
            ASSERT_EQ(row, e * 80 + n);
            for (int64_t h = 0; h < kHidden; ++h)
              ASSERT_EQ(packed.rows.as<Bf16>()[row * kHidden + h].bits(),
                        x[s / 3 * kHidden + h].bits());
            ++n;
          }
        }
        EXPECT_EQ(packed.counts.as<int32_t>()[e], n);
      }
    }
}

TEST(PackByExpert, AnExpertThatRowsNameTwiceIsNoted) {
  const auto backend = make_cpu_backend(1);
  const PackShape shape{.max_rows = 4, .top_k = 2, .num_experts = 2, .hidden = kHidden};
  const auto x = random_bf16({4, kHidden}, 1);
  Buffer<int32_t> ids({4, 2});
  std::fill_n(ids.data(), ids.count(), 1);
  const auto weights = random_f32({4, 2}, 3);
  const Memory memory(*backend, pack_by_expert_bytes(shape));
  StatusWords words;
  const auto packed = pack_by_expert(
      *backend,
      {.source = {x.view()}, .ids = ids.view(), .weights = weights.view(), .num_rows = {}}, shape,
      memory.view(), Tensor(&words.code, {kStatusWords}));
  EXPECT_EQ(words.detail, static_cast<int32_t>(StatusDetail::MaskedOverflow));
  EXPECT_EQ(packed.counts.as<int32_t>()[1], 4);
}

TEST(PackByExpert, WhatCannotBeIsRefused) {
  const auto backend = make_cpu_backend(1);
  const auto x = random_bf16({4, kHidden}, 1);
  const auto ids = random_ids(4, 2, 2, Skew::Balanced, 2);
  const auto weights = random_f32({4, 2}, 3);
  const PackShape good{.max_rows = 4, .top_k = 2, .num_experts = 2, .hidden = kHidden};
  const Memory memory(*backend, pack_by_expert_bytes(good));
  StatusWords words;
  const auto code = [&](const PackShape& shape, Workspace workspace) {
    return error_of([&] {
             pack_by_expert(*backend,
                            {.source = {x.view()},
                             .ids = ids.view(),
                             .weights = weights.view(),
                             .num_rows = {}},
                            shape, workspace, Tensor(&words.code, {kStatusWords}));
           })
        .code();
  };
  for (const PackShape& bad :
       {PackShape{3, 2, 2, kHidden}, PackShape{4, 3, 2, kHidden}, PackShape{4, 2, 2, 32},
        PackShape{4, 2, 0, kHidden}, PackShape{-1, 2, 2, kHidden}, PackShape{4, 2, 2, 20},
        PackShape{INT64_MAX / 4, 2, 8, kHidden}})
    EXPECT_EQ(code(bad, memory.view()), Errc::ShapeMismatch);
  EXPECT_EQ(code(good, {memory.data.get(), memory.bytes - 1}), Errc::ShapeMismatch);
}

constexpr int64_t kExperts = 6, kTopK = 3, kTokens = 20;

Bf16 expert(int64_t e, Bf16 x) {
  return Bf16(static_cast<float>(x) * (1.0f + static_cast<float>(e) / 8));
}

// Experts of a program: of each packed row, in place.
void run_experts(const ExpertRows& packed, int64_t first_expert) {
  const int64_t max_rows = packed.rows.dim(1);
  for (int64_t e = 0; e < packed.rows.dim(0); ++e)
    for (int64_t i = 0; i < packed.counts.as<int32_t>()[e] * kHidden; ++i) {
      Bf16& x = packed.rows.as<Bf16>()[e * max_rows * kHidden + i];
      x = expert(first_expert + e, x);
    }
}

void run_with_experts_outside(Communicator& comm, bool peer_memory) {
  const auto backend = make_cpu_backend(1);
  const auto dispatcher = make_dispatcher(
      dispatch_config(kHidden, kExperts, kTopK),
      {.kind = DispatcherKind::LowLatency, .peer_memory = peer_memory, .sums_at_source = true},
      comm, backend);
  const Memory window(*backend, dispatcher->workspace_bytes(kTokens));
  dispatcher->connect(window.view(), kTokens, window.data);
  const int64_t num_local = kExperts / comm.size();
  const PackShape shape{dispatcher->max_rows(kTokens), kTopK, num_local, kHidden};
  const Memory memory(*backend, pack_by_expert_bytes(shape));
  const auto seed = static_cast<uint64_t>(comm.rank());
  const auto x = random_bf16({kTokens, kHidden}, seed);
  const auto ids = random_ids(kTokens, kExperts, kTopK, Skew::SomeMissing, seed + 9);
  const auto weights = random_f32({kTokens, kTopK}, seed + 5, 0.1f, 1.0f);
  StatusWords words;
  const Tensor status(&words.code, {kStatusWords});
  Buffer<Bf16> room({shape.max_rows * kTopK, kHidden}), out({kTokens, kHidden});
  CUstream_st* const stream = nullptr;
  // [outside_experts]
  const DispatchedCall call = dispatcher->dispatch(window.view(), x.view(), ids.view(),
                                                   weights.view(), kTokens, status, stream);
  ExpertRows packed = pack_by_expert(*backend, call.received, shape, memory.view(), status, stream);
  run_experts(packed, comm.rank() * num_local);
  packed.rows.shape = {num_local * shape.max_rows, kHidden};
  const SlotSums sums{packed.rows, packed.row_of_slot, call.received.weights};
  dispatcher->combine(out.view(), dispatcher->sum_experts(sums, call, room.view(), stream), call,
                      {}, status, stream);
  // [outside_experts]
  EXPECT_TRUE(words.good());
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t h = 0; h < kHidden; ++h) {
      float sum = 0;
      for (int64_t s = t * kTopK; s < (t + 1) * kTopK; ++s)
        if (ids[s] >= 0) sum += weights[s] * static_cast<float>(expert(ids[s], x[t * kHidden + h]));
      ASSERT_EQ(out[t * kHidden + h].bits(), Bf16(sum).bits()) << t << ", " << h;
    }
}

TEST(PackByExpert, ExpertsOfAProgramStandBetweenDispatchAndCombine) {
  for (const bool peer_memory : {false, true})
    for (const int num_ranks : {2, 3})
      run_local_ranks(num_ranks,
                      [&](Communicator& comm) { run_with_experts_outside(comm, peer_memory); });
}

}  // namespace
}  // namespace switchyard::testing
