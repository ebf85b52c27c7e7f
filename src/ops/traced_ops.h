// src/ops/traced_ops.h -- any backend's operations, timed one by one. For observers only: forward
// calls the plain operations when nobody looks. Reads counts on the host, so it needs host-visible
// memory.
#pragma once

#include "ops/ops.h"
#include "switchyard/backend.h"

namespace switchyard {

class TracedOps final : public Ops {
 public:
  explicit TracedOps(Ops& ops) : ops_(ops) {}

  void observe(OpObserver observer) { observer_ = std::move(observer); }
  bool observed() const { return static_cast<bool>(observer_); }

  void gate_topk(Tensor ids, Tensor weights, ConstTensor logits, ConstTensor correction_bias,
                 const GateConfig& gate, CUstream_st* stream) override;
  void narrow_ids(Tensor dst, ConstTensor src, CUstream_st* stream) override;
  void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                     int rank, Tensor status, CUstream_st* stream) override;
  void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                    int64_t num_local, int64_t num_experts, int rank, Tensor status,
                    CUstream_st* stream) override;
  void merge_status(Tensor status, ConstTensor headers, CUstream_st* stream) override;
  void block_rows(Tensor dst, int64_t stride, CUstream_st* stream) override;
  void check_headers(Tensor status, ConstTensor headers, int tp_size, CUstream_st* stream) override;
  void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers,
                   int rank, ConstTensor status, CUstream_st* stream) override;
  void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                 Tensor status, CUstream_st* stream) override;
  void scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                    CUstream_st* stream) override;
  void grouped_gemm(const GroupedGemm& gemm, CUstream_st* stream) override;
  void gather_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor weights,
                   const Addend& addend, ConstTensor num_rows, CUstream_st* stream) override;
  void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                    CUstream_st* stream) override;
  void single_group(const RowGroups& groups, int64_t num_rows, CUstream_st* stream) override;
  void sigmoid(Tensor dst, ConstTensor src, CUstream_st* stream) override;
  void fill_i32(Tensor dst, int32_t value, CUstream_st* stream) override;
  void copy(Tensor dst, ConstTensor src, CUstream_st* stream) override;
  void poison(Tensor dst, ConstTensor status, CUstream_st* stream) override;

 private:
  struct Work {
    double bytes;
    double flops;
  };
  // Runs `call`, then reports it with the work it had.
  template <class F, class W>
  void trace(const char* op, F&& call, W&& work);

  Ops& ops_;
  OpObserver observer_;
};

}  // namespace switchyard
