// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/params.cuh -- what a kernel of the grouped GEMM is given, and the kernel of a
// configuration.
#pragma once

#include "cuda/grouped_gemm/epilogue.cuh"
#include "cuda/grouped_gemm/epilogue_store.cuh"
#include "plan/index.h"

namespace switchyard::cuda {

// Numbers that the products of a stage are multiplied by: one for each of `rows` rows of an expert's
// matrix (of src: one), for each `stages` stages of the inner dimension.
struct Scales {
  const float* values;  // [..., blocks, steps]
  int rows, stages;
  int blocks, steps;

  // Of a row's scale at a stage, from the row's first scale on.
  __device__ int step(int stage) const { return stages == 1 ? stage : stage / stages; }
};

struct GemmParams {
  CUtensorMap src, weights;          // for the copy engine
  Scales src_scales, weight_scales;  // of scaled operands
  bool weights_share_scale;          // every 128 rows of a matrix of weights, at a stage
  const __nv_bfloat16* row;          // src, and
  const __nv_bfloat16* weight;       // weights, for threads
  // Threads gather: row r of the groups is row slot_of_row[r] / slots_per_row of src; null: row r.
  const int32_t* slot_of_row;
  int slots_per_row;
  bool groups_are_older;  // than what the kernel waits for
  StoreParams store;
  const RowTile* tiles;      // for blocks of one tile; null: they look through counts
  const int32_t* counts;     // [E]
  const int64_t* first_row;  // [E + 1]
  int32_t* next_step;        // 0 before the call and after it; null: no step is drawn
  int num_experts, k;
  int chunk_stages;  // of the inner dimension; for configurations that add chunks
  OutputShape out;
  bool stream_weights;  // most experts have one tile of rows: their weights are read once
  Epilogue epilogue;
};

using GemmKernel = void (*)(GemmParams);
template <GemmConfig kConfig>
GemmKernel gemm_kernel();  // each in a file of its own, kernel.cu.in

}  // namespace switchyard::cuda
