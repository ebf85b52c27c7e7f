// src/cuda/ops.h -- the launchers of the CUDA forms of ops/ops.h; contracts there. One .cuh with
// the kernels and one .cu with the launcher per operation.
#pragma once

#include <cuda_runtime_api.h>

#include "ops/ops.h"

namespace switchyard::cuda {

// gate_topk.cu
void gate_topk(const GateTopk& gate, cudaStream_t stream);
// path_ops.cu
void split_f32(Tensor dst, ConstTensor src, cudaStream_t stream);
void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                        int64_t num_experts, int64_t num_ids, cudaStream_t stream);
void norm_rows(const NormRows& norm, cudaStream_t stream);
void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights, cudaStream_t stream);
void add_rows(Tensor dst, ConstTensor src, const Addend& addend, cudaStream_t stream);
void widen(Tensor dst, ConstTensor src, cudaStream_t stream);
// plan_dispatch.cu
void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status,
                cudaStream_t stream);
void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                   int rank, Tensor status, cudaStream_t stream);
void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                  int64_t num_local, int64_t num_experts, int rank, Tensor status,
                  cudaStream_t stream);
// exchange.cu
void merge_status(Tensor status, ConstTensor headers, cudaStream_t stream);
void block_rows(Tensor dst, int64_t stride, cudaStream_t stream);
void check_headers(Tensor status, ConstTensor headers, int tp_size, cudaStream_t stream);
void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers, int rank,
                 ConstTensor status, cudaStream_t stream);
void note_ended(Tensor status, const int32_t* ended, int rank, cudaStream_t stream);
// row_blocks.cu
void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts, int rank,
               int64_t block, cudaStream_t stream);
void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts, int rank,
                 int64_t block, cudaStream_t stream);
// plan_rows.cu
void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank, Tensor status,
               cudaStream_t stream);
// group_rows.cu
void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status,
                cudaStream_t stream);
// scatter_rows.cu
void scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                  cudaStream_t stream);
void fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                ConstTensor row_of_slot, ConstTensor num_rows, cudaStream_t stream);
// peer_exchange.cu
void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part, Tensor status,
                cudaStream_t stream);
void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status, cudaStream_t stream);
// peer_rows.cu
void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
               cudaStream_t stream);
void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
               const SlotSums& own, const Addend& addend, ConstTensor status, cudaStream_t stream);
void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                 ConstTensor status, cudaStream_t stream);
// sum_rows.cu
void gather_rows(Tensor dst, const SlotSums& sums, const Addend& addend, ConstTensor num_rows,
                 const KeptRows& kept, cudaStream_t stream);
void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                  cudaStream_t stream);
// conv_decode.cu
void conv_decode(const ConvDecode& step, Tensor status, cudaStream_t stream);
// conv_prefill_states.cu
void conv_prefill_states(const ConvPrefillStates& step, Tensor status, cudaStream_t stream);
// delta_rule_decode.cu
void delta_rule_decode(const DeltaRuleDecode& step, Tensor status, cudaStream_t stream);
// small_ops.cu
void single_group(const RowGroups& groups, int64_t num_rows, cudaStream_t stream);
void sigmoid(Tensor dst, ConstTensor src, cudaStream_t stream);
void fill_i32(Tensor dst, int32_t value, cudaStream_t stream);
void copy(Tensor dst, ConstTensor src, cudaStream_t stream);
void poison(Tensor dst, ConstTensor status, cudaStream_t stream);
// grouped_gemm/grouped_gemm.cu: TMA and wgmma, compute capability 9.0 exactly.
void grouped_gemm_hopper(const GroupedGemm& gemm, int num_sms, cudaStream_t stream);

}  // namespace switchyard::cuda
