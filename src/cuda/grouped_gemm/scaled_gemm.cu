// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/scaled_gemm.cu -- the grouped GEMM of fp8 rows and weights: which kernel, and
// what it is given.
#include <algorithm>
#include <climits>

#include "cuda/grouped_gemm/launch_gemm.h"
#include "cuda/grouped_gemm/launch_kernel.cuh"
#include "cuda/grouped_gemm/producer.cuh"
#include "cuda/run.h"
#include "ops/fp8_ops.h"
#include "switchyard/backend.h"

namespace switchyard::cuda {
namespace {

// Stages of the inner dimension, and rows of a matrix, that share a scale.
int stages_of(const ScaledGemm& g, const BlockScales& scales) {
  const int64_t cols = scales.block.cols;
  SWITCHYARD_REQUIRE(cols == ScaleBlock::kWhole || cols % kQuantGroup == 0, Unsupported, g.name,
                     ": scale of ", cols, " columns, need a multiple of ", kQuantGroup,
                     " or all. Use weights in bf16.");
  return static_cast<int>(std::min<int64_t>(cols / kQuantGroup, INT_MAX));
}

Scales scales_of(const ScaledGemm& g, const BlockScales& scales) {
  const ConstTensor& values = scales.values;
  const bool of_experts = values.shape.rank() == 3;
  return {.values = values.as<float>(),
          .rows = static_cast<int>(std::min<int64_t>(scales.block.rows, INT_MAX)),
          .stages = stages_of(g, scales),
          .blocks = of_experts ? static_cast<int>(values.dim(1)) : 1,
          .steps = static_cast<int>(values.dim(of_experts ? 2 : 1))};
}

// Whether a tile's columns are whole groups, which become codes before they are in memory.
bool quantizes(const GemmConfig& config, const ScaledGemm& g) {
  return config.rows_first && g.activation->gated() && g.dst.dim(1) % kQuantGroup == 0;
}

GemmParams params_of(const ScaledGemm& g, const GemmConfig& config) {
  SWITCHYARD_REQUIRE(config.scaled(), Unsupported, g.name, ": configuration ", describe(config),
                     ", multiplies bf16. Run grouped_gemm.");
  SWITCHYARD_REQUIRE(g.slots_per_row == 0 || g.src_is_scattered, Unsupported, g.name,
                     ": slots_per_row=", g.slots_per_row,
                     ", rows of fp8 are not gathered. Scatter them first.");
  SWITCHYARD_REQUIRE(g.weights.dim(2) % 16 == 0, Misaligned, g.name, ": K=", g.weights.dim(2),
                     ", need a multiple of 16 (rows are copied as 16-byte vectors of fp8).");
  GemmParams p{};
  p.out.n = static_cast<int>(g.weights.dim(1));
  p.out.gated = g.activation != nullptr;
  p.out.width = p.out.gated ? p.out.n / 2 : p.out.n;
  SWITCHYARD_REQUIRE(!p.out.gated || quantizes(config, g), Unsupported, g.name, ": configuration ",
                     describe(config), ", makes no codes of ", p.out.width,
                     " columns. Quantise its sums.");
  p.src = map_of_rows(g.src, TmaRows::box_rows(config), config.inner());
  p.weights = p.out.gated ? map_of_halves(g.weights, config.weights)
                          : map_of_weights(g.weights, config.weights);
  p.src_scales = scales_of(g, g.src_scales);
  p.weight_scales = scales_of(g, g.weight_scales);
  p.weights_share_scale = p.weight_scales.blocks == 1 || p.weight_scales.rows % kQuantGroup == 0;
  p.slot_of_row = g.slots_per_row > 0 ? g.slot_of_row.as<int32_t>() : nullptr;
  p.slots_per_row = g.slots_per_row;
  p.store = store_of(config, g.dst, p.out.gated);
  p.store.scales = g.dst_scales.as<float>();
  p.counts = g.groups.counts.as<int32_t>();
  p.first_row = g.groups.first_row.as<int64_t>();
  p.next_step = g.groups.next_step.as<int32_t>();
  p.num_experts = static_cast<int>(g.weights.dim(0));
  p.k = static_cast<int>(g.weights.dim(2));
  p.chunk_stages = INT_MAX;
  p.stream_weights = 2 * g.max_rows <= int64_t{p.num_experts} * config.rows;
  GroupedGemm passes;  // what the epilogue's passes look at
  passes.bias = g.bias, passes.slot_of_row = g.slot_of_row, passes.row_weights = g.row_weights;
  passes.activation = g.activation, passes.order = g.order;
  p.epilogue = Epilogue::of(passes);
  return p;
}

}  // namespace

void launch_gemm(const GemmConfig& config, const ScaledGemm& g, int num_sms, cudaStream_t stream) {
  launch_kernel(config, params_of(g, config), most_tiles(g.max_rows, g.weights.dim(0), config.rows),
                num_sms, stream);
}

void scaled_gemm_hopper(const ScaledGemm& g, int num_sms, cudaStream_t stream) {
  if (g.max_rows == 0 || g.src.dim(0) == 0) return;
  const GemmConfig config =
      config_on_device(g.config,
                       {.num_experts = g.weights.dim(0),
                        .max_rows = g.max_rows,
                        .n = g.weights.dim(1),
                        .k = g.weights.dim(2),
                        .operands = OperandKind::F8E4m3,
                        .gated = g.activation != nullptr && g.activation->gated()},
                       num_sms);
  const bool in_two_steps = g.activation != nullptr && !quantizes(config, g);
  launch_gemm(config, in_two_steps ? g.products() : g, num_sms, stream);
  if (in_two_steps) run(g.activated(), stream);
}

}  // namespace switchyard::cuda
