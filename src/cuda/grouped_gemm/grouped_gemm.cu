// src/cuda/grouped_gemm/grouped_gemm.cu -- launch shape and launch.
#include "cuda/grouped_gemm/grouped_gemm.cuh"

#include <algorithm>

#include "cuda/grouped_gemm/tensor_map.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {
namespace {

bool is_gated(const GroupedGemm& g) {
  return g.activation != nullptr && g.activation->gated();
}

GemmParams params_of(const GroupedGemm& g, const GemmConfig& config) {
  GemmParams p{};
  const bool gated = is_gated(g);
  p.src = map_of_rows(g.src, rows_per_box(config));
  p.weights =
      gated ? map_of_halves(g.weights, config.weights) : map_of_weights(g.weights, config.weights);
  p.dst = g.dst.data;
  if (g.dst.dtype == DType::Bf16)
    p.dst_boxes = map_of_output(g.dst, store_box_rows(gated), store_box_cols(gated));
  p.counts = g.groups.counts.as<int32_t>();
  p.first_row = g.groups.first_row.as<int64_t>();
  p.next_step = g.groups.next_step.as<int32_t>();
  p.bias = g.bias.as<float>();
  p.row_weights = g.row_weights.as<float>();
  p.slot_of_row = g.slot_of_row.as<int32_t>();
  p.num_experts = static_cast<int>(g.weights.dim(0));
  p.n = static_cast<int>(g.weights.dim(1));
  p.k = static_cast<int>(g.weights.dim(2));
  p.width = gated ? p.n / 2 : p.n;
  p.activation = g.activation ? static_cast<int>(g.activation->kind) : -1;
  if (g.activation) p.alpha = g.activation->alpha, p.limit = g.activation->limit;
  p.gated = gated;
  p.up_first = g.order == GateUpOrder::UpGate;
  p.dst_is_f32 = g.dst.dtype == DType::F32;
  p.stream_weights = 2 * g.max_rows <= int64_t{p.num_experts} * config.rows;
  return p;
}

// No more clusters than steps can be: every expert may add a tile that is not full.
int64_t most_steps(const GroupedGemm& g, const GemmConfig& config) {
  const int64_t row_tiles =
      g.max_rows / config.rows + std::min<int64_t>(g.weights.dim(0), g.max_rows);
  const int64_t step_weights = int64_t{config.weights} * config.cluster();
  return row_tiles * ((g.weights.dim(1) + step_weights - 1) / step_weights);
}

template <GemmConfig kConfig>
void launch_config(const GroupedGemm& g, int num_sms, cudaStream_t stream) {
  const auto kernel =
      grouped_gemm_kernel<kConfig.rows, kConfig.weights, kConfig.stages, kConfig.cluster_rows,
                          kConfig.cluster_weights, Bf16Operands, TmaRows>;
  const auto smem_bytes = static_cast<size_t>(shared_bytes(kConfig, g.weights.dim(0)));
  allow_smem(kernel, smem_bytes);
  const GemmParams p = params_of(g, kConfig);
  // At least one: choose_gemm_config takes no cluster that is larger than num_sms.
  const int64_t clusters = std::min<int64_t>(num_sms / kConfig.cluster(), most_steps(g, kConfig));
  launch(kernel,
         LaunchShape{.grid = static_cast<unsigned>(clusters * kConfig.cluster()),
                     .block = kConfig.threads(),
                     .smem_bytes = smem_bytes,
                     .cluster = static_cast<unsigned>(kConfig.cluster())},
         stream, p);
}

}  // namespace

void grouped_gemm_hopper(const GroupedGemm& g, int num_sms, cudaStream_t stream) {
  if (g.max_rows == 0 || g.src.dim(0) == 0) return;
  const GemmShape shape{g.weights.dim(0), g.max_rows, g.weights.dim(1), g.weights.dim(2), num_sms};
  visit_gemm_config(choose_gemm_config(shape),
                    [&]<GemmConfig kConfig>() { launch_config<kConfig>(g, num_sms, stream); });
}

}  // namespace switchyard::cuda
