// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/gemm_epilogue.cu
#include "cuda/gemm_epilogue.h"

#include "base/checked.h"
#include "cuda/gemm_epilogue.cuh"

namespace switchyard::cuda {
namespace {

constexpr int kThreads = 256;

EpilogueParams params_of(const GroupedGemm& g, ConstTensor sums) {
  const int64_t n = g.weights.dim(1);
  const bool gated = g.activation != nullptr && g.activation->gated();
  EpilogueParams p{};
  p.dst = g.dst.data;
  p.sums = sums.as<float>();
  p.bias = g.bias.present() ? g.bias.as<float>() : nullptr;
  p.row_weight = g.row_weights.present() ? g.row_weights.as<float>() : nullptr;
  p.slot_of_row = g.row_weights.present() ? g.slot_of_row.as<int32_t>() : nullptr;
  p.counts = g.groups.counts.as<int32_t>();
  p.first_row = g.groups.first_row.as<int64_t>();
  p.num_experts = static_cast<int32_t>(g.weights.dim(0));
  p.n = n;
  p.width = gated ? n / 2 : n;
  p.has_activation = g.activation != nullptr;
  if (p.has_activation) p.activation = *g.activation;
  p.gate_column = gated && g.order == GateUpOrder::UpGate ? p.width : 0;
  p.up_column = gated && g.order == GateUpOrder::GateUp ? p.width : 0;
  return p;
}

template <int kColumns>
void launch_epilogue(const GroupedGemm& g, const EpilogueParams& p, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(g.dst.dim(0));
  const auto blocks = static_cast<unsigned>(ceil_div(p.width, int64_t{kThreads} * kColumns));
  const dim3 grid(rows, blocks);
  if (g.dst.dtype == DType::F32)
    launch(gemm_epilogue_kernel<float, kColumns>, grid, dim3(kThreads), 0, stream, p);
  else
    launch(gemm_epilogue_kernel<__nv_bfloat16, kColumns>, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace

void gemm_epilogue(const GroupedGemm& gemm, ConstTensor sums, cudaStream_t stream) {
  const EpilogueParams p = params_of(gemm, sums);
  // Vectors of 16 bytes where every row begins at a multiple of them; a router may have any E.
  if (p.width % 4 == 0)
    launch_epilogue<4>(gemm, p, stream);
  else
    launch_epilogue<1>(gemm, p, stream);
}

}  // namespace switchyard::cuda
