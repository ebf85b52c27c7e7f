#include "strategy/tiles.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace switchyard {
namespace {

TEST(Tiles, EveryChoiceIsCompiledAndFitsSharedMemory) {
  for (const int64_t experts : {1, 8, 60, 128, 512, 4096})
    for (const int64_t max_rows : {0, 1, 63, 64, 1000, 65536, 1 << 20})
      for (const int64_t n : {8, 96, 704, 2880, 28672}) {
        const GemmTile tile = choose_tile({experts, max_rows, n, 64});
        EXPECT_NE(std::find(kTiles.begin(), kTiles.end(), tile), kTiles.end());
        EXPECT_LE(shared_bytes(tile, experts), kSharedBytesPerBlock);
      }
}

TEST(Tiles, AClusterFitsTheMultiprocessorsThatACallMayUse) {
  for (const int num_sms : {1, 2, 3, 132})
    EXPECT_LE(choose_tile({8, 65536, 4096, 64, num_sms}).cluster, num_sms);
  EXPECT_EQ(choose_tile({8, 65536, 4096, 64, 2}), choose_tile({8, 65536, 4096, 64}));
}

TEST(Tiles, ATileThatIsNotCompiledIsRefusedByName) {
  try {
    visit_tile({1, 2, 3, 4}, []<size_t>() {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_STREQ(e.what(),
                 "grouped_gemm: tile=1x2x64, 3 stages, cluster of 4, is not compiled. Add it to "
                 "strategy/tiles.h.");
  }
}

}  // namespace
}  // namespace switchyard
