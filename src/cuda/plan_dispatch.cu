// src/cuda/plan_dispatch.cu
#include "cuda/plan_dispatch.cuh"

#include "base/checked.h"
#include "cuda/ops.h"

namespace switchyard::cuda {

void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status,
                cudaStream_t stream) {
  const int64_t count = src.count(), blocks = ceil_div(count, int64_t{kIdThreads});
  if (src.dtype == DType::I32)
    launch(narrow_ids_kernel<int32_t>, blocks, kIdThreads, 0, stream, dst.as<int32_t>(),
           src.as<int32_t>(), count, num_experts, rank, status.as<int32_t>());
  else
    launch(narrow_ids_kernel<int64_t>, blocks, kIdThreads, 0, stream, dst.as<int32_t>(),
           src.as<int64_t>(), count, num_experts, rank, status.as<int32_t>());
}

void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                  int64_t num_local, int64_t num_experts, int rank, Tensor status,
                  cudaStream_t stream) {
  const LocalizeIdsParams params{dst.as<int32_t>(),
                                 src.as<int32_t>(),
                                 num_rows.present() ? num_rows.as<int32_t>() : nullptr,
                                 status.as<int32_t>(),
                                 src.count(),
                                 src.dim(1),
                                 first,
                                 num_local,
                                 num_experts,
                                 rank};
  launch(localize_ids_kernel, ceil_div(src.count(), int64_t{kIdThreads}), kIdThreads, 0, stream,
         params);
}

void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                   int rank, Tensor status, cudaStream_t stream) {
  const PlanDispatchParams params{plan.send_rows.as<int32_t>(),
                                  plan.send_counts.as<int32_t>(),
                                  plan.return_row.as<int32_t>(),
                                  ids.as<int32_t>(),
                                  status.as<int32_t>(),
                                  num_experts,
                                  static_cast<int>(ids.dim(0)),
                                  static_cast<int>(ids.dim(1)),
                                  num_ranks,
                                  rank};
  fill_i32(plan.send_counts, 0, stream);
  launch(mark_ranks_kernel, ceil_div(ids.dim(0) * num_ranks, int64_t{kIdThreads}), kIdThreads,
         static_cast<size_t>(num_ranks) * sizeof(int32_t), stream, params);
  launch(order_rows_kernel, num_ranks, kOrderThreads, 0, stream, params);
}

}  // namespace switchyard::cuda
