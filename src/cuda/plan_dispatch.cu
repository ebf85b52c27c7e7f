// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/plan_dispatch.cu
#include "cuda/plan_dispatch.cuh"

#include "base/checked.h"
#include "cuda/run.h"

namespace switchyard::cuda {
namespace {

template <class Id>
void resolve(const ResolveIds& op, cudaStream_t stream) {
  const CallerIds<Id> ids{op.src.as<Id>(), op.map.present() ? op.map.as<int32_t>() : nullptr,
                          op.map.present() ? op.map.dim(0) : 0, op.num_experts,
                          op.ignores_out_of_range};
  const ResolvedSlots slots{SlotsView(op.slots),
                            op.slots.present() ? op.weights.as<float>() : nullptr,
                            static_cast<int>(op.src.dim(1))};
  const int64_t count = op.src.count();
  launch(resolve_ids_kernel<Id>, ceil_div(count, int64_t{kIdThreads}), kIdThreads, 0, stream,
         op.dst.as<int32_t>(), ids, slots, count, op.rank, op.status.as<int32_t>());
}

}  // namespace

template <>
void run(const ResolveIds& op, cudaStream_t stream) {
  op.src.dtype == DType::I32 ? resolve<int32_t>(op, stream) : resolve<int64_t>(op, stream);
}

template <>
void run(const LocalizeIds& op, cudaStream_t stream) {
  const LocalizeIdsParams params{op.dst.as<int32_t>(),
                                 op.src.as<int32_t>(),
                                 op.num_rows.present() ? op.num_rows.as<int32_t>() : nullptr,
                                 op.status.as<int32_t>(),
                                 op.src.count(),
                                 op.src.dim(1),
                                 op.first,
                                 op.num_local,
                                 op.num_experts,
                                 op.rank};
  launch(localize_ids_kernel, ceil_div(op.src.count(), int64_t{kIdThreads}), kIdThreads, 0, stream,
         params);
}

template <>
void run(const PlanDispatch& op, cudaStream_t stream) {
  const PlanDispatchParams params{op.send_rows.as<int32_t>(),
                                  op.send_counts.as<int32_t>(),
                                  op.return_row.as<int32_t>(),
                                  op.ids.as<int32_t>(),
                                  op.status.as<int32_t>(),
                                  op.num_experts,
                                  static_cast<int>(op.ids.dim(0)),
                                  static_cast<int>(op.ids.dim(1)),
                                  op.num_ranks,
                                  op.rank};
  run(FillI32{op.send_counts, 0}, stream);
  launch(mark_ranks_kernel, ceil_div(op.ids.dim(0) * op.num_ranks, int64_t{kIdThreads}), kIdThreads,
         static_cast<size_t>(op.num_ranks) * sizeof(int32_t), stream, params);
  launch(order_rows_kernel, op.num_ranks, kOrderThreads, 0, stream, params);
}

}  // namespace switchyard::cuda
