// src/strategy/tiles.h -- the only list of compiled tiles of Hopper's grouped GEMM, and the pure
// choice between them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "base/require.h"

namespace switchyard {

// At most `rows` rows x `weights` rows of weights; stages of 64 elements of the inner dimension in
// flight; `cluster` blocks side by side that load rows for each other.
struct GemmTile {
  int rows, weights, stages, cluster;
  bool operator==(const GemmTile&) const = default;
};

inline constexpr int kTileInner = 64;  // 128 bytes of bf16: one swizzled row of shared memory

inline constexpr std::array kTiles = {
    // Very few rows per expert, bound by the bytes of the weights: narrow tiles, so that all SMs
    // end together; 96 KiB of weights in flight per SM.
    GemmTile{64, 64, 12, 1},
    // Few rows per expert: rows are fetched half as often.
    GemmTile{64, 128, 7, 1},
    // One tile for an expert that has somewhat more.
    GemmTile{128, 128, 5, 1},
    // Many rows: the most reuse per byte that 64 Ki registers allow (128 sums per thread). Alone a
    // block would ask L2 for 48 KiB per 0.71 us, 9 TB/s over the card; two share a third of it.
    GemmTile{256, 128, 4, 2},
};

// What a tile is chosen by: known on the host before any row is.
struct GemmShape {
  int64_t num_experts = 0;  // local
  int64_t max_rows = 0;     // bound of the rows of all experts together
  int64_t n = 0, k = 0;     // weights [num_experts, n, k]
  int num_sms = 0;          // multiprocessors that the call may use; 0: all
};

// Equal shapes give equal tiles. The order in which an inner dimension is summed does not depend on
// the tile, so neither do the bits.
GemmTile choose_tile(const GemmShape& shape);
// "256x128x64, 4 stages, cluster of 2": rows, weights, inner dimension.
std::string describe(const GemmTile& tile);

// Shared memory: the stages, two buffers of output per warpgroup (64 weight rows), rings of
// barriers and steps, and the steps before each expert.
constexpr int kStagingBytes = 8192;
constexpr int64_t kStepBytes = 24;  // GemmBlock of grouped_gemm.cuh
// Steps that are loaded, one to a stage if the inner dimension is short, and the one multiplied.
constexpr int step_slots(GemmTile t) {
  return t.stages + 1;
}
// Steps that one block of a cluster may have told the other before that one has come to them: it is
// at most all stages ahead, a step each if the inner dimension is short, and one more is drawn.
constexpr int kToldSteps = 8;
constexpr int64_t staging_bytes(GemmTile t) {
  return int64_t{t.weights} / 64 * 2 * kStagingBytes;
}
constexpr int64_t stage_bytes(GemmTile t) {
  return int64_t{t.rows + t.weights} * kTileInner * 2;
}
constexpr int64_t shared_bytes(GemmTile t, int64_t num_experts) {
  constexpr int64_t kBytesOfSums = 32 * int64_t{sizeof(int32_t)};  // one per warp
  constexpr int64_t kBytesTold = kToldSteps * int64_t{sizeof(uint64_t) + sizeof(int32_t)};
  const int64_t rings =
      t.stages * 2 * int64_t{sizeof(uint64_t)} + step_slots(t) * kStepBytes + kBytesTold;
  return t.stages * stage_bytes(t) + staging_bytes(t) + rings + kBytesOfSums +
         (num_experts + 1) * int64_t{sizeof(int32_t)};
}
constexpr int64_t kSharedBytesPerBlock = int64_t{227} * 1024;  // sm_90; CUDA programming guide
constexpr bool tile_fits(GemmTile t, int64_t num_experts) {
  return shared_bytes(t, num_experts) <= kSharedBytesPerBlock;
}
static_assert(tile_fits(kTiles[0], 4096) && tile_fits(kTiles[1], 4096) &&
              tile_fits(kTiles[2], 4096) && tile_fits(kTiles[3], 512));
static_assert([] {
  for (const GemmTile& t : kTiles)
    if (t.cluster > 1 && t.stages + 2 > kToldSteps) return false;
  return true;
}());

// Calls f.operator()<index into kTiles>() for the tile equal to `wanted`.
template <class F>
void visit_tile(GemmTile wanted, F&& f) {
  const bool found = [&]<size_t... I>(std::index_sequence<I...>) {
    return ((wanted == kTiles[I] && (f.template operator()<I>(), true)) || ...);
  }
  (std::make_index_sequence<kTiles.size()>{});
  SWITCHYARD_REQUIRE(found, Unsupported, "grouped_gemm: tile=", describe(wanted),
                     ", is not compiled. Add it to strategy/tiles.h.");
}

}  // namespace switchyard
