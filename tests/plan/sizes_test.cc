// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/plan/sizes_test.cc -- arithmetic on sizes, arenas and the buffers cut from them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/status.h"
#include "plan/buffers.h"

namespace switchyard {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(Checked, RefusesWhatDoesNotFit) {
  EXPECT_EQ(checked_mul(int64_t{1} << 31, int64_t{1} << 31, "x"), int64_t{1} << 62);
  EXPECT_EQ(checked_add(kMax - 1, 1, "x"), kMax);
  EXPECT_THROW(checked_mul(int64_t{1} << 32, int64_t{1} << 31, "x"), Error);
  EXPECT_THROW(checked_add(kMax, 1, "x"), Error);
  EXPECT_THROW(checked_mul(-1, 1, "x"), Error);
  EXPECT_EQ(ceil_div(kMax, 2), kMax / 2 + 1);
  EXPECT_EQ(align_up(129, 128), 256);
  EXPECT_EQ(align_up(0, 128), 0);
}

TEST(RowTiles, HoldAllRowsAndNoTileIsEmptyOrTooLarge) {
  for (const int tile_rows : {8, 32, 64, 128, 256})
    for (int count = 0; count <= 1100; ++count) {
      const TileSplit split = split_rows(count, tile_rows);
      const int last = count - (split.tiles - 1) * split.rows;
      EXPECT_EQ(split.tiles, (count + tile_rows - 1) / tile_rows);
      EXPECT_TRUE(count == 0 || (last > 0 && last <= split.rows && split.rows <= tile_rows));
      EXPECT_TRUE(split.tiles <= 1 || tile_rows < 16 || split.rows % 16 == 0);
    }
}

TEST(RowTiles, AreAtMostAsManyAsAnyRoutingMakes) {
  std::mt19937_64 rng(64);
  for (int repeat = 0; repeat < 3000; ++repeat) {
    const int experts = 1 + static_cast<int>(rng() % 40), tile_rows = rng() % 2 == 0 ? 8 : 32;
    const auto rows = static_cast<int64_t>(rng() % 700);
    std::vector<int> counts(static_cast<size_t>(experts));
    const auto favoured = 1 + rng() % counts.size();
    for (int64_t r = 0; r < rows; ++r) ++counts[rng() % favoured];
    int64_t tiles = 0;
    for (const int count : counts) tiles += split_rows(count, tile_rows).tiles;
    EXPECT_LE(tiles, most_tiles(rows, experts, tile_rows));
  }
  EXPECT_EQ(most_tiles(128 + 3 * 8, 128, 8), 128 + 3);  // one expert has 25 rows, the others one
  EXPECT_EQ(most_tiles(5, 128, 8), 5);
}

TEST(Arena, SizesItselfAlignsAndNeverLeavesItsWorkspace) {
  const auto take_all = [](Arena& arena) {
    const Tensor a = arena.take(DType::Bf16, {3, 5});
    const Tensor b = arena.take(DType::I32, {0});
    const Tensor c = arena.take(DType::I64, {7});
    return std::array{a, b, c};
  };
  Arena sizer({});
  take_all(sizer);
  EXPECT_EQ(sizer.bytes(), 256u);

  alignas(128) std::byte memory[256];
  Arena arena({memory, sizeof memory});
  const auto tensors = take_all(arena);
  for (const auto& t : tensors) EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data) % 128, 0u);
  EXPECT_GE(tensors[2].as<std::byte>(), tensors[0].as<std::byte>() + 30);
  EXPECT_THROW(arena.take(DType::F32, {1}), Error);
  Arena wide({});
  EXPECT_THROW(wide.take(DType::F64, {int64_t{1} << 40, int64_t{1} << 40}), Error);
}

ExecutorShape shape() {
  return {.hidden = 64, .intermediate = 32, .num_local_experts = 5, .top_k = 3, .alignment = 8};
}

TEST(Capacity, ContiguousHoldsEverySlotAndItsPadding) {
  EXPECT_EQ(buffer_rows(shape(), Layout::Contiguous, 0), 0);
  EXPECT_EQ(buffer_rows(shape(), Layout::Contiguous, 1), 3 + 3 * 7);  // 3 slots use 3 experts
  EXPECT_EQ(buffer_rows(shape(), Layout::Contiguous, 10), 30 + 5 * 7);
  auto s = shape();
  s.alignment = 1;
  EXPECT_EQ(buffer_rows(s, Layout::Contiguous, 10), 30);
}

TEST(Capacity, MaskedHoldsARowOrKPerExpert) {
  auto s = shape();
  EXPECT_EQ(buffer_rows(s, Layout::Masked, 10), 50);
  s.allow_repeated_experts = true;
  EXPECT_EQ(buffer_rows(s, Layout::Masked, 10), 150);
  EXPECT_THROW(buffer_rows(s, Layout::Masked, kMax / 4), Error);
}

TEST(Capacity, HybridSizesMaskedAtItsThresholdOnly) {
  const int64_t masked_all = executor_bytes(shape(), ExecutorKind::Masked, 0, 100000);
  const int64_t contiguous = executor_bytes(shape(), ExecutorKind::Contiguous, 0, 100000);
  const int64_t hybrid = executor_bytes(shape(), ExecutorKind::Hybrid, 256, 100000);
  EXPECT_LT(contiguous, masked_all);
  EXPECT_EQ(hybrid, contiguous);
  EXPECT_EQ(executor_bytes(shape(), ExecutorKind::Hybrid, 256, 100),
            executor_bytes(shape(), ExecutorKind::Masked, 0, 100));
}

TEST(Capacity, ReceivedRowsFollowTheDispatcher) {
  EXPECT_EQ(received_rows(DispatcherKind::Local, 10, 4, 4), 10);
  EXPECT_EQ(received_rows(DispatcherKind::Normal, 10, 4, 1), 40);
  EXPECT_EQ(received_rows(DispatcherKind::Normal, 10, 4, 4), 12);  // slices of 3
  EXPECT_EQ(received_rows(DispatcherKind::Normal, 0, 4, 1), 0);
}

TEST(Status, TheFirstErrorStaysAndItsValueIsWhole) {
  StatusWords status;
  note(status, Errc::BadRouting, StatusDetail::IdOutOfRange, 2, int64_t{1} << 40);
  note(status, Errc::Transport, StatusDetail::PeerLost, 0, 0);
  EXPECT_EQ(status.code, static_cast<int32_t>(Errc::BadRouting));
  EXPECT_EQ(status.seen(), int64_t{1} << 40);
  EXPECT_NE(status_message(status).find("expert id=1099511627776 on rank 2"), std::string::npos);
  for (const int64_t value : {int64_t{0}, int64_t{-2}, int64_t{INT32_MAX}, int64_t{INT32_MAX} + 1,
                              int64_t{INT32_MIN} - 1, -(int64_t{1} << 32), INT64_MIN, INT64_MAX}) {
    StatusWords other;
    note(other, Errc::BadRouting, StatusDetail::IdOutOfRange, 0, value);
    EXPECT_EQ(other.seen(), value);
    EXPECT_NE(status_message(other).find("id=" + std::to_string(value) + " on"), std::string::npos);
  }
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNaN) {
  EXPECT_EQ(Bf16(1.00390625f).bits(), 0x3f80);  // halfway, to even
  EXPECT_EQ(Bf16(1.01171875f).bits(), 0x3f82);  // halfway, to even
  EXPECT_EQ(Bf16(1.0039064f).bits(), 0x3f81);
  EXPECT_EQ(Bf16(3.4e38f).bits(), 0x7f80);  // to infinity
  EXPECT_TRUE(std::isnan(static_cast<float>(Bf16(std::nanf("")))));
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto value = static_cast<float>(Bf16::from_bits(static_cast<uint16_t>(bits)));
    if (!std::isnan(value)) {
      ASSERT_EQ(Bf16(value).bits(), bits);
    }
  }
}

TEST(TensorView, RowsMoveTheAddressByWholeRows) {
  float x[12] = {};
  const Tensor t(x, {3, 4});
  EXPECT_EQ(t.rows(1, 2).as<float>(), x + 4);
  EXPECT_EQ(t.rows(1, 2).shape, (Shape{2, 4}));
  EXPECT_EQ(t.rows(3, 0).count(), 0);
  EXPECT_FALSE(Tensor().present());
  EXPECT_EQ(t.bytes(), 48);
}

}  // namespace
}  // namespace switchyard
