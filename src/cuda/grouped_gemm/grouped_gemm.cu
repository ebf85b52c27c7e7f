// src/cuda/grouped_gemm/grouped_gemm.cu -- parameters, launch shape and launch.
#include <algorithm>

#include "cuda/grouped_gemm/launch_gemm.h"
#include "cuda/grouped_gemm/producer.cuh"
#include "cuda/grouped_gemm/tensor_map.h"
#include "cuda/launch.h"
#include "cuda/run.h"
#include "cuda/shared_memory.h"

namespace switchyard::cuda {
namespace {

GemmParams params_of(const GroupedGemm& g, const GemmConfig& config) {
  GemmParams p{};
  p.out.gated = g.activation != nullptr && g.activation->gated();
  p.src = map_of_rows(g.src, TmaRows::box_rows(config), config.inner());
  p.weights = p.out.gated ? map_of_halves(g.weights, config.weights)
                          : map_of_weights(g.weights, config.weights);
  p.store.dst = g.dst.data;
  p.store.is_f32 = g.dst.dtype == DType::F32;
  if (!p.store.is_f32)
    p.store.boxes = map_of_rows(g.dst, store_box_rows(p.out.gated), store_box_cols(p.out.gated));
  p.counts = g.groups.counts.as<int32_t>();
  p.first_row = g.groups.first_row.as<int64_t>();
  p.next_step = g.groups.next_step.as<int32_t>();
  p.num_experts = static_cast<int>(g.weights.dim(0));
  p.k = static_cast<int>(g.weights.dim(2));
  p.out.n = static_cast<int>(g.weights.dim(1));
  p.out.width = p.out.gated ? p.out.n / 2 : p.out.n;
  p.stream_weights = 2 * g.max_rows <= int64_t{p.num_experts} * config.rows;
  p.epilogue = Epilogue::of(g);
  return p;
}

// No more clusters than steps can be: every expert may add a tile that is not full.
int64_t most_steps(const GroupedGemm& g, const GemmConfig& config) {
  const int64_t row_tiles =
      g.max_rows / config.rows + std::min<int64_t>(g.weights.dim(0), g.max_rows);
  const int64_t step_weights = int64_t{config.weights} * config.cluster_weights;
  return row_tiles * ((g.weights.dim(1) + step_weights - 1) / step_weights);
}

}  // namespace

void launch_gemm(const GemmConfig& config, const GroupedGemm& g, int num_sms, cudaStream_t stream) {
  GemmKernel kernel = nullptr;
  visit_gemm_config(config, [&]<GemmConfig kConfig>() { kernel = gemm_kernel<kConfig>(); });
  const auto smem_bytes = static_cast<size_t>(shared_bytes(config, g.weights.dim(0)));
  allow_smem(kernel, smem_bytes);
  const int64_t clusters = std::min<int64_t>(num_sms / config.cluster(), most_steps(g, config));
  launch(kernel,
         LaunchShape{.grid = static_cast<unsigned>(clusters * config.cluster()),
                     .block = static_cast<unsigned>(config.threads()),
                     .smem_bytes = smem_bytes,
                     .cluster = static_cast<unsigned>(config.cluster())},
         stream, params_of(g, config));
}

void grouped_gemm_hopper(const GroupedGemm& g, int num_sms, cudaStream_t stream) {
  if (g.max_rows == 0 || g.src.dim(0) == 0) return;
  // It takes no cluster that is larger than num_sms.
  const GemmConfig config = choose_gemm_config(
      {g.weights.dim(0), g.max_rows, g.weights.dim(1), g.weights.dim(2), num_sms});
  launch_gemm(config, g, num_sms, stream);
}

}  // namespace switchyard::cuda
