// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "strategy/gemm_configs.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "plan/capacity.h"
#include "plan/index.h"

namespace switchyard {
namespace {

TEST(GemmConfigs, EveryChoiceIsCompiledAndFitsSharedMemory) {
  for (const int64_t experts : {1, 8, 60, 128, 512, 4096})
    for (const int64_t max_rows : {0, 1, 63, 64, 1000, 65536, 1 << 20})
      for (const int64_t n : {8, 96, 704, 2880, 28672}) {
        const GemmConfig config = choose_gemm_config({experts, max_rows, n, 64});
        EXPECT_NE(std::find(kGemmConfigs.begin(), kGemmConfigs.end(), config), kGemmConfigs.end());
        EXPECT_LE(shared_bytes(config, experts), kSharedBytesPerBlock);
      }
}

TEST(GemmConfigs, AClusterFitsTheMultiprocessorsThatACallMayUse) {
  for (const int num_sms : {1, 2, 3, 132})
    EXPECT_LE(choose_gemm_config({8, 65536, 4096, 64, num_sms}).cluster(), num_sms);
  EXPECT_EQ(choose_gemm_config({8, 65536, 4096, 64, 2}), choose_gemm_config({8, 65536, 4096, 64}));
}

TEST(GemmConfigs, FewRowsPerExpertStreamWhereACallMayUseAllMultiprocessors) {
  const auto streams = [](int64_t rows_per_expert, int64_t k, int num_sms = 0) {
    return choose_gemm_config({128, 128 * rows_per_expert, 2048, k, num_sms}).streams();
  };
  EXPECT_TRUE(streams(0, 768) && streams(8, 768) && streams(16, 2048));
  EXPECT_FALSE(streams(9, 768) || streams(17, 2048));
  EXPECT_FALSE(streams(1, 2048, 131));
}

TEST(GemmConfigs, FewBlocksAreHalfAsWide) {
  const auto weights = [](int64_t max_rows, int64_t n, int64_t k) {
    return choose_gemm_config({8, max_rows, n, k}).weights;
  };
  EXPECT_EQ(weights(2, 4096, 14336), 32);  // 128 blocks of 64 would be fewer than SMs
  EXPECT_EQ(weights(2, 28672, 4096), 64);  // 896
  EXPECT_EQ(weights(8, 2112, 14336), 64);  // 264
  EXPECT_EQ(weights(8, 2048, 14336), 32);  // 256
  EXPECT_EQ(weights(8, 4096, 2048), 32);   // a short inner dimension
}

// A plan has places for the tiles of every GEMM whose blocks take one each.
TEST(GemmConfigs, WhatStreamsHasFewTiles) {
  for (const int64_t experts : {1, 3, 8, 60, 128, 512})
    for (int64_t max_rows = 1; max_rows <= 20 * experts; ++max_rows)
      for (const int64_t k : {512, 2048, 7168}) {
        const GemmConfig config = choose_gemm_config({experts, max_rows, 4096, k});
        if (!config.streams()) continue;
        EXPECT_LE(most_tiles(max_rows, experts, config.rows), kTilesPerExpert * experts);
      }
}

// An expert with 1.25 of the average must still fit a tile. A cluster of two does not pay where the
// weights fill one block.
TEST(GemmConfigs, TilesGrowWhereTheAverageExpertNoLongerFits) {
  const auto tiles = [](int64_t rows_per_expert, int64_t n = 2048, int num_sms = 0,
                        int64_t k = 2048) {
    const GemmConfig c = choose_gemm_config({8, 8 * rows_per_expert, n, k, num_sms});
    EXPECT_EQ(c.ping_pong, c.rows == 192);
    return c.rows;
  };
  EXPECT_EQ(tiles(17), 64);
  EXPECT_EQ(tiles(51), 64);
  EXPECT_EQ(tiles(52), 128);
  EXPECT_EQ(tiles(104), 128);
  EXPECT_EQ(tiles(105), 192);
  EXPECT_EQ(tiles(116, 2048, 0, 768), 128);
  EXPECT_EQ(tiles(117, 2048, 0, 768), 192);
  EXPECT_EQ(tiles(168), 192);
  EXPECT_EQ(tiles(169), 256);
  for (const int64_t rows : {105, 169}) {
    EXPECT_EQ(tiles(rows, 128), 128);
    EXPECT_EQ(tiles(rows, 136), tiles(rows));
    EXPECT_EQ(tiles(rows, 2048, 1), 128);
    EXPECT_EQ(tiles(rows, 2048, 2), tiles(rows));
  }
  EXPECT_EQ(tiles(1, 2048, 1), 64);
  const GemmConfig narrow = choose_gemm_config({8, 8, 2048, 2048}),
                   wide = choose_gemm_config({8, 8, 2112, 2056}),
                   more_rows = choose_gemm_config({8, 8 * 4, 2048, 2048});
  EXPECT_TRUE(narrow.streams() && wide.streams() && more_rows.streams());
  EXPECT_NE(narrow, wide);
  EXPECT_NE(narrow, more_rows);
  EXPECT_EQ(choose_gemm_config({8, 8 * 3, 2048, 2048}), narrow);
}

TEST(GemmConfigs, TilesOfFp8GrowWithTheAverageExpert) {
  const auto choose = [](int64_t rows_per_expert, int64_t n = 2048, int num_sms = 0) {
    const GemmConfig c = choose_gemm_config({.num_experts = 8,
                                             .max_rows = 8 * rows_per_expert,
                                             .n = n,
                                             .k = 2048,
                                             .num_sms = num_sms,
                                             .operands = OperandKind::F8E4m3});
    EXPECT_TRUE(c.scaled() && !c.streams());
    return std::pair(c.rows, c.cluster());
  };
  const std::pair few(64, 1), many(128, 2);
  EXPECT_EQ(choose(1), few);
  EXPECT_EQ(choose(51), few);
  EXPECT_EQ(choose(52), many);
  EXPECT_EQ(choose(52, 256), few);
  EXPECT_EQ(choose(52, 264), many);
  EXPECT_EQ(choose(52, 2048, 1), few);
  EXPECT_EQ(choose(52, 2048, 2), many);
}

// Rows come first where there are many of fp8, and then in tiles of whole products of 64.
TEST(GemmConfigs, OneOfThemHasRowsFirst) {
  int found = 0;
  for (const GemmConfig& c : kGemmConfigs) {
    if (!c.rows_first) continue;
    ++found;
    EXPECT_EQ(c.math_warpgroups() * 64, c.rows);
    for (const int rows : {1, 64, 65, 256, 257, 513, 700, 1025}) {
      const TileSplit split = split_rows(rows, c.rows, c.row_step());
      EXPECT_EQ(split.rows % 64, 0) << rows;
      EXPECT_LE(split.rows, c.rows) << rows;
      EXPECT_GT(rows, (split.tiles - 1) * split.rows) << rows;
      EXPECT_LE(rows, split.tiles * split.rows) << rows;
    }
  }
  EXPECT_EQ(found, 1);
}

TEST(GemmConfigs, OneOfThemAddsChunks) {
  GemmShape shape{1, 8192, 128, 2048};
  EXPECT_FALSE(choose_gemm_config(shape).adds_chunks);
  shape.has_chunks = true;
  EXPECT_TRUE(choose_gemm_config(shape).adds_chunks);
}

TEST(GemmConfigs, PrintAllThatTellsThemApart) {
  EXPECT_EQ(describe(GemmConfig{256, 128, 4, 1, 2}), "256x128x64, 4 stages, cluster of 2");
  EXPECT_EQ(describe(GemmConfig{64, 64, 12, 2, 1}), "64x64x64, 12 stages, cluster of 2x1");
  for (const GemmConfig& a : kGemmConfigs)
    for (const GemmConfig& b : kGemmConfigs) EXPECT_EQ(describe(a) == describe(b), a == b);
}

TEST(GemmConfigs, OneThatIsNotCompiledIsRefusedByName) {
  try {
    visit_gemm_config({1, 2, 3, 1, 4}, []<GemmConfig>() {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_STREQ(e.what(),
                 "grouped_gemm: configuration 1x2x64, 3 stages, cluster of 4, is not compiled. Add "
                 "it to strategy/gemm_configs.h.");
  }
}

}  // namespace
}  // namespace switchyard
