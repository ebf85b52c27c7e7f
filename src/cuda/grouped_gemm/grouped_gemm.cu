// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/grouped_gemm.cu -- parameters, launch shape and launch.
#include <climits>

#include "cuda/grouped_gemm/launch_gemm.h"
#include "cuda/grouped_gemm/launch_kernel.cuh"
#include "cuda/grouped_gemm/producer.cuh"
#include "cuda/run.h"
#include "switchyard/backend.h"

namespace switchyard::cuda {
namespace {

GemmParams params_of(const GroupedGemm& g, const GemmConfig& config) {
  GemmParams p{};
  p.out.gated = g.activation != nullptr && g.activation->gated();
  SWITCHYARD_REQUIRE(!config.scaled(), Unsupported, g.name, ": configuration ", describe(config),
                     ", multiplies fp8. Run scaled_gemm.");
  SWITCHYARD_REQUIRE(g.slots_per_row == 0 || config.streams(), Unsupported, g.name,
                     ": configuration ", describe(config),
                     ", gathers no rows. Scatter them first.");
  if (config.streams()) {
    p.row = g.src.as<__nv_bfloat16>();
    p.weight = g.weights.as<__nv_bfloat16>();
    p.slot_of_row = g.slots_per_row > 0 ? g.slot_of_row.as<int32_t>() : nullptr;
    p.slots_per_row = g.slots_per_row;
    p.groups_are_older = g.groups_are_older;
    p.tiles = g.groups.tiles.present() ? static_cast<const RowTile*>(g.groups.tiles.data) : nullptr;
    SWITCHYARD_REQUIRE(!p.tiles || g.groups.tile_rows <= config.rows, ShapeMismatch, g.name,
                       ": tile_rows=", g.groups.tile_rows, ", configuration ", describe(config),
                       ", takes tiles of fewer. Ask Backend::rows_of_tile.");
  } else {
    p.src = map_of_rows(g.src, TmaRows::box_rows(config), config.inner());
    p.weights = p.out.gated ? map_of_halves(g.weights, config.weights)
                            : map_of_weights(g.weights, config.weights);
  }
  p.store = store_of(config, g.dst, p.out.gated);
  p.counts = g.groups.counts.as<int32_t>();
  p.first_row = g.groups.first_row.as<int64_t>();
  p.next_step = g.groups.next_step.as<int32_t>();
  p.num_experts = static_cast<int>(g.weights.dim(0));
  p.k = static_cast<int>(g.weights.dim(2));
  SWITCHYARD_REQUIRE(g.chunk % config.inner() == 0 && (g.chunk == 0 || config.adds_chunks),
                     Unsupported, g.name, ": chunk=", g.chunk, ", configuration ", describe(config),
                     ", adds none of this size. Pass 0.");
  p.chunk_stages = g.chunk > 0 ? static_cast<int>(g.chunk / config.inner()) : INT_MAX;
  p.out.n = static_cast<int>(g.weights.dim(1));
  p.out.width = p.out.gated ? p.out.n / 2 : p.out.n;
  p.stream_weights = 2 * g.max_rows <= int64_t{p.num_experts} * config.rows;
  p.epilogue = Epilogue::of(g);
  return p;
}

GemmShape shape_of(const GroupedGemm& g) {
  return {.num_experts = g.weights.dim(0),
          .max_rows = g.max_rows,
          .n = g.weights.dim(1),
          .k = g.weights.dim(2),
          .has_chunks = g.chunk > 0,
          .gated = g.activation != nullptr && g.activation->gated()};
}

}  // namespace

GemmConfig config_on_device(const GemmConfig* named, GemmShape shape, int num_sms) {
  const DeviceDescription& device = describe_device(DeviceKind::Cuda);
  static const GemmTable table = gemm_table(device, tuned_gpus());
  if (named != nullptr) return *named;
  shape.num_sms = num_sms == device.num_sms ? 0 : num_sms;
  return choose_gemm(shape, table).config;
}

void launch_gemm(const GemmConfig& config, const GroupedGemm& g, int num_sms, cudaStream_t stream) {
  const int64_t row_tiles = g.groups.tiles.present()
                                ? g.groups.tiles.dim(0)
                                : most_tiles(g.max_rows, g.weights.dim(0), config.rows);
  launch_kernel(config, params_of(g, config), row_tiles, num_sms, stream);
}

int rows_of_tile(const GroupedGemm& g, int num_sms) {
  if (g.max_rows == 0) return 0;
  const GemmConfig config = config_on_device(g.config, shape_of(g), num_sms);
  return config.streams() ? config.rows : 0;
}

void grouped_gemm_hopper(const GroupedGemm& g, int num_sms, cudaStream_t stream) {
  if (g.max_rows == 0 || g.src.dim(0) == 0) return;
  launch_gemm(config_on_device(g.config, shape_of(g), num_sms), g, num_sms, stream);
}

}  // namespace switchyard::cuda
