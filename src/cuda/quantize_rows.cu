// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/quantize_rows.cu
#include "cuda/quantize_rows.cuh"

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

void require_vectors(const char* name, int64_t width) {
  SWITCHYARD_REQUIRE(width % kQuantVector == 0, Misaligned, name, ": row=", width,
                     " elements, need a multiple of ", kQuantVector,
                     " (they are read as vectors of as many).");
}

template <class Number, bool kLongGroups>
void quantize(const QuantizeRows& op, cudaStream_t stream) {
  const int64_t warps = op.src.dim(0) * op.scales.dim(1);
  launch(quantize_rows_kernel<Number, kLongGroups>,
         static_cast<unsigned>(ceil_div(warps, kWarpsPerBlock)), kQuantThreads, 0, stream,
         op.dst.as<uint8_t>(), op.scales.as<float>(), op.src.as<Number>(),
         op.num_rows.present() ? op.num_rows.as<int32_t>() : nullptr, op.src.dim(0), op.src.dim(1),
         op.group, op.scales.dim(1));
}

template <class Number>
void quantize(const QuantizeRows& op, cudaStream_t stream) {
  op.group <= kQuantGroup ? quantize<Number, false>(op, stream)
                          : quantize<Number, true>(op, stream);
}

}  // namespace

template <>
void run(const QuantizeRows& op, cudaStream_t stream) {
  require_vectors(QuantizeRows::kName, op.src.dim(1));
  require_vectors(QuantizeRows::kName, op.group);
  op.src.dtype == DType::F32 ? quantize<float>(op, stream) : quantize<__nv_bfloat16>(op, stream);
}

template <>
void run(const QuantizeActivated& op, cudaStream_t stream) {
  const int64_t width = op.dst.dim(1), num_groups = op.scales.dim(1);
  require_vectors(QuantizeActivated::kName, width);
  const bool gated = op.activation->gated();
  ActivatedParams p{};
  p.dst = op.dst.as<uint8_t>();
  p.scales = op.scales.as<float>();
  p.sums = op.src.as<float>();
  p.counts = op.groups.counts.as<int32_t>();
  p.first_row = op.groups.first_row.as<int64_t>();
  p.num_experts = static_cast<int32_t>(op.groups.counts.dim(0));
  p.n = op.src.dim(1);
  p.width = width;
  p.num_groups = num_groups;
  p.activation = *op.activation;
  p.gate_column = gated && op.order == GateUpOrder::UpGate ? width : 0;
  p.up_column = gated && op.order == GateUpOrder::GateUp ? width : 0;
  const dim3 grid(static_cast<unsigned>(op.dst.dim(0)),
                  static_cast<unsigned>(ceil_div(num_groups, kWarpsPerBlock)));
  launch(quantize_activated_kernel, grid, kQuantThreads, 0, stream, p);
}

}  // namespace switchyard::cuda
