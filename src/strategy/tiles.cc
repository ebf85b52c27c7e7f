// src/strategy/tiles.cc
#include "strategy/tiles.h"

namespace switchyard {

GemmTile choose_tile(const GemmShape& s) {
  const int64_t rows_per_expert = s.num_experts > 0 ? s.max_rows / s.num_experts : 0;
  const auto fits = [&](GemmTile t) { return tile_fits(t, s.num_experts); };
  if (rows_per_expert <= 4 && fits(kTiles[0])) return kTiles[0];
  // With an even gate few experts have more than 1.25 of the average.
  if (rows_per_expert <= 51) return kTiles[1];
  const bool cluster_fits = s.num_sms == 0 || s.num_sms >= kTiles[3].cluster;
  const bool wide = rows_per_expert > 192 && s.n > kTiles[3].weights;
  return wide && cluster_fits && fits(kTiles[3]) ? kTiles[3] : kTiles[2];
}

std::string describe(const GemmTile& t) {
  return cat(t.rows, "x", t.weights, "x", kTileInner, ", ", t.stages, " stages, cluster of ",
             t.cluster);
}

}  // namespace switchyard
