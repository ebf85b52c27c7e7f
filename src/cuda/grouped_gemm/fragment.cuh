// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/fragment.cuh -- which sum of a thread is which element of a tile. Nothing
// else knows.
#pragma once

#include <cstdint>

#include "cuda/numbers.cuh"

namespace switchyard::cuda {

struct OutputShape {
  int n, width;  // rows of an expert's weights, columns of dst: n, or n / 2 if gated
  bool gated;
};

// What a warpgroup makes: the sums of 64 weight rows with a tile of rows.
struct OutputTile {
  int64_t first_row;  // of dst
  int num_rows;
  int expert;
  int first_col;  // of dst: 64 from here on, 32 if gated
};

struct Place {
  int lane, warp;  // within the warpgroup
};

// A tile is blocks of 8 rows x 8 weight rows. A thread has two sums of each: sum i of block (j, h)
// is of row row(j, i) of the tile and of weight row h of two. These make two output columns or, if
// gated, are the gate row and the up row of one, in the order of the weights.
template <int kSums>
class Fragment {
 public:
  static constexpr int kBlocks = kSums / 4;  // along the rows
  static constexpr int kRows = 8 * kBlocks;

  __device__ Fragment(float (&its_sums)[kSums], Place where, const OutputShape& output)
      : shape(output), place(where), sums(its_sums) {}

  __device__ float& at(int j, int h, int i) const { return sums[4 * j + 2 * h + i]; }
  __device__ int row(int j, int, int i) const { return 8 * j + (2 * (place.lane % 4) + i); }
  // The output column, from the warpgroup's first on.
  __device__ int col(int, int h, int) const {
    return (shape.gated ? place.warp * 8 : place.warp * 16 + 8 * h) + place.lane / 4;
  }
  // The tile ends before block j. Asked seldom, so that many blocks are in flight at a time.
  __device__ bool ends(int j, const OutputTile& t) const {
    return j % 8 == 0 && 8 * j >= t.num_rows;
  }
  // A warp's block as a matrix of bf16, as stmatrix takes it.
  __device__ uint32_t matrix(int j, int h) const { return two_bf16(at(j, h, 0), at(j, h, 1)); }

  const OutputShape& shape;
  const Place place;

 private:
  float (&sums)[kSums];
};

// The same of 64 rows with 128 rows of weights, where rows come first: blocks of 8 columns x 8 rows.
// If gated, blocks of gate and up rows take turns, in the order of the weights.
template <int kSums>
class RowFragment {
 public:
  static constexpr int kBlocks = kSums / 4;  // along the columns

  __device__ RowFragment(float (&its_sums)[kSums], Place where, const OutputShape& output)
      : shape(output), place(where), sums(its_sums) {}

  __device__ float& at(int j, int h, int i) const { return sums[4 * j + 2 * h + i]; }
  __device__ int row(int, int h, int) const { return place.warp * 16 + 8 * h + place.lane / 4; }
  __device__ int col(int j, int, int i) const {
    return 8 * (shape.gated ? j / 2 : j) + 2 * (place.lane % 4) + i;
  }
  __device__ uint32_t matrix(int j, int h) const { return two_bf16(at(j, h, 0), at(j, h, 1)); }

  const OutputShape& shape;
  const Place place;

 private:
  float (&sums)[kSums];
};

}  // namespace switchyard::cuda
