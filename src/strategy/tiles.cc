// src/strategy/tiles.cc
#include "strategy/tiles.h"

namespace switchyard {

GemmTile choose_tile(const GemmShape& s) {
  const int64_t rows_per_expert = s.num_experts > 0 ? s.max_rows / s.num_experts : 0;
  // With an even gate few experts have more than 1.25 of the average.
  if (rows_per_expert <= 51) return kTiles[0];
  const bool cluster_fits = s.num_sms == 0 || s.num_sms >= kTiles[2].cluster;
  if (s.n <= 128 || !cluster_fits) return kTiles[1];
  return kTiles[2];
}

std::string describe(const GemmTile& t) {
  return cat(t.m, "x", t.n, "x", kTileInner, ", ", t.stages, " stages, cluster of ", t.cluster);
}

}  // namespace switchyard
