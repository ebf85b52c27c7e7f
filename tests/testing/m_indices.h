// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/m_indices.h -- expert buffers that are described by the expert of every row.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "ops/ops.h"
#include "plan/capacity.h"
#include "testing/cuda_buffer.h"
#include "testing/routing.h"

namespace switchyard::testing {

// Groups of random sizes in random order with random padding before, between and after them; some
// experts have no row. Rows of a group begin at multiples of `alignment`.
inline Buffer<int32_t> random_m_indices(int64_t num_experts, int64_t most_rows, int64_t alignment,
                                        uint64_t seed) {
  std::mt19937_64 rng(seed);
  const auto below = [&rng](int64_t n) {
    return static_cast<int64_t>(rng() % static_cast<uint64_t>(n));
  };
  std::vector<int32_t> order(static_cast<size_t>(num_experts)), rows;
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), rng);
  const auto pad = [&] {
    rows.resize(rows.size() + static_cast<size_t>(below(3)), kNoExpert);
    while (static_cast<int64_t>(rows.size()) % alignment != 0) rows.push_back(kNoExpert);
  };
  for (const int32_t e : order) {
    pad();
    const int64_t size = below(4) == 0 ? 0 : below(most_rows + 1);
    rows.insert(rows.end(), static_cast<size_t>(size), e);
  }
  pad();
  Buffer<int32_t> row_expert({static_cast<int64_t>(rows.size())});
  std::copy(rows.begin(), rows.end(), row_expert.data());
  return row_expert;
}

template <class T>
const Buffer<T>& host_of(Buffer<T>& b) {
  return b;
}
template <class T>
const Buffer<T>& host_of(CudaBuffer<T>& b) {
  return b.host();
}

// Grouped GEMMs over m_indices, on the device of `ops`: B is Buffer or CudaBuffer.
template <template <class> class B>
class MIndicesGemm {
 public:
  static constexpr int64_t kExperts = 7, kN = 96, kK = 64;

  MIndicesGemm(Ops& ops, GemmProvider provider)
      : ops_(ops),
        provider_(provider),
        weights_(random_bf16({kExperts, kN, kK}, 31)),
        bias_(random_f32({kExperts, kN}, 32)) {}

  // The groups that plan_rows makes and those made again from the row_expert that it writes give
  // the same rows, and rows without an expert stay.
  void expect_rows_of_plan(Skew skew) {
    SCOPED_TRACE(skew_name(skew));
    constexpr int64_t kRows = 61, kTopK = 3, kAlignment = 128;
    constexpr int64_t kBufferRows = kRows * kTopK + kExperts * (kAlignment - 1);
    B<int32_t> ids(random_ids(kRows, kExperts, kTopK, skew, 5)), num_rows(filled(1, kRows));
    B<int32_t> counts(Shape{kExperts}), row_of_slot(Shape{kRows, kTopK}),
        row_expert(Shape{kBufferRows}), scratch(Shape{kPlanBlocks, kExperts}), status(filled(4, 0));
    B<int64_t> first_row(Shape{kExperts + 1});
    const RowGroups planned{counts.view(), first_row.view()};
    ops_.run(PlanRows{.alignment = kAlignment,
                      .groups = planned,
                      .row_of_slot = row_of_slot.view(),
                      .slot_of_row = {},
                      .row_expert = row_expert.view(),
                      .scratch = scratch.view(),
                      .ids = ids.view(),
                      .num_rows = num_rows.view(),
                      .status = status.view()},
             nullptr);
    B<Bf16> src(random_bf16({kBufferRows, kK}, 33));
    const auto expected = multiply(src, planned);
    const auto actual = multiply_by_m_indices(src, row_expert);
    EXPECT_TRUE(same_bits(actual, expected));
    expect_untouched_padding(actual, host_of(row_expert));
  }

  // A row's result does not depend on where it stands: groups in one order, packed, against groups
  // in any order, with padding anywhere.
  void expect_rows_in_any_order(int64_t alignment, uint64_t seed) {
    SCOPED_TRACE(::testing::Message() << "alignment " << alignment << ", seed " << seed);
    const auto given = random_m_indices(kExperts, 150, alignment, seed);
    std::vector<std::pair<int32_t, int64_t>> packed;  // expert, row in `given`
    for (int64_t r = 0; r < given.count(); ++r)
      if (given[r] != kNoExpert) packed.push_back({given[r], r});
    std::sort(packed.begin(), packed.end());
    const auto num_packed = static_cast<int64_t>(packed.size());

    const Buffer<Bf16> src(random_bf16({given.count(), kK}, seed));
    Buffer<Bf16> packed_src({num_packed, kK});
    Buffer<int32_t> packed_expert({num_packed});
    for (int64_t i = 0; i < num_packed; ++i) {
      const auto [e, row] = packed[static_cast<size_t>(i)];
      packed_expert[i] = e;
      std::copy_n(src.data() + row * kK, kK, packed_src.data() + i * kK);
    }
    B<int32_t> in_any_order(given), in_order(packed_expert);
    B<Bf16> rows(src), packed_rows(packed_src);
    const auto actual = multiply_by_m_indices(rows, in_any_order);
    const auto expected = multiply_by_m_indices(packed_rows, in_order);
    for (int64_t i = 0; i < num_packed; ++i)
      EXPECT_EQ(std::memcmp(actual.data() + packed[static_cast<size_t>(i)].second * kN,
                            expected.data() + i * kN, kN * sizeof(Bf16)),
                0)
          << "row " << packed[static_cast<size_t>(i)].second;
    expect_untouched_padding(actual, given);
  }

 private:
  static Buffer<int32_t> filled(int64_t count, int64_t value) {
    Buffer<int32_t> b({count});
    std::fill_n(b.data(), count, static_cast<int32_t>(value));
    return b;
  }

  Buffer<Bf16> multiply_by_m_indices(B<Bf16>& src, B<int32_t>& row_expert) {
    B<int32_t> counts(Shape{kExperts}), status(filled(4, 0));
    B<int64_t> first_row(Shape{kExperts + 1});
    const RowGroups groups{counts.view(), first_row.view()};
    ops_.run(GroupRows{groups, row_expert.view(), 0, status.view()}, nullptr);
    EXPECT_TRUE(same_bits(host_of(status), filled(4, 0)));
    return multiply(src, groups);
  }

  Buffer<Bf16> multiply(B<Bf16>& src, const RowGroups& groups) {
    const int64_t rows = src.view().dim(0);
    B<Bf16> dst(Shape{rows, kN});
    B<float> scratch(Shape{rows, kN});
    GroupedGemm gemm;
    gemm.dst = dst.view();
    gemm.src = src.view();
    gemm.weights = weights_.view();
    gemm.bias = bias_.view();
    gemm.groups = groups;
    gemm.max_rows = rows;
    gemm.provider = provider_;
    gemm.host_counts = true;
    if (provider_ == GemmProvider::Cublas) gemm.scratch = scratch.view();
    ops_.run(gemm, nullptr);
    EXPECT_TRUE(host_of(dst).guards_intact());
    return host_of(dst);
  }

  static void expect_untouched_padding(const Buffer<Bf16>& dst, const Buffer<int32_t>& row_expert) {
    for (int64_t r = 0; r < row_expert.count(); ++r)
      for (int64_t c = 0; c < kN; ++c)
        if (row_expert[r] == kNoExpert) {
          ASSERT_EQ(dst[r * kN + c].bits(), poison_value<Bf16>().bits()) << "row " << r;
        }
  }

  Ops& ops_;
  const GemmProvider provider_;
  B<Bf16> weights_;
  B<float> bias_;
};

}  // namespace switchyard::testing
