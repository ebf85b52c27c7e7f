// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/index.h -- where rows stand, as arithmetic that host and device share.
#pragma once

#include <cstdint>

namespace switchyard {

// Rows that a group of `count` takes in a buffer whose groups begin at multiples of `alignment`.
constexpr int64_t padded_count(int64_t count, int64_t alignment) {
  if (alignment == 1) return count;  // by far the most common; a division is slow
  return (count + alignment - 1) / alignment * alignment;
}

// An expert's rows in as few tiles of at most `tile_rows` as hold them, all but the last of `rows`: a
// multiple of `step`, if tiles have so many. The last has the rest, at least one row: with t > 1 tiles
// there are more than (t - 1) tile_rows rows, and no tile takes more than tile_rows.
struct TileSplit {
  int tiles, rows;
};
constexpr TileSplit split_rows(int count, int tile_rows, int step = 16) {
  if (count == 0) return {0, 0};
  const int tiles = (count + tile_rows - 1) / tile_rows, unit = tile_rows < step ? tile_rows : step;
  return {tiles, ((count + tiles - 1) / tiles + unit - 1) / unit * unit};
}

// One of them, in a table of all that GEMMs read.
struct RowTile {
  int64_t first_row;
  int32_t num_rows;  // 0: no tile
  int32_t expert;
};
inline constexpr int64_t kRowTileWords = sizeof(RowTile) / sizeof(int32_t);

// Tiles of so many rows of num_experts experts, at most: each expert may have one that is not full.
constexpr int64_t most_tiles(int64_t max_rows, int64_t num_experts, int64_t tile_rows) {
  return max_rows <= num_experts ? max_rows : num_experts + (max_rows - num_experts) / tile_rows;
}

// The rank that owns a global expert, in equal consecutive blocks.
constexpr int64_t owner_of(int64_t expert, int64_t experts_per_rank) {
  return expert / experts_per_rank;
}

// Whether an id names an expert at all; -1 and anything outside [0, E) does not.
constexpr bool is_expert(int64_t id, int64_t num_experts) {
  return id >= 0 && id < num_experts;
}

// Whether an id is one that a gate may give: an expert, or -1.
constexpr bool is_valid_id(int64_t id, int64_t num_experts) {
  return id >= -1 && id < num_experts;
}

// Where row n of num_rows stands that has gate and up in turns, when all of gate come first.
constexpr int64_t interleaved_row(int64_t n, int64_t num_rows) {
  return n < num_rows / 2 ? 2 * n : 2 * (n - num_rows / 2) + 1;
}

}  // namespace switchyard
