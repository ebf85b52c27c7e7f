// src/ops/recorded_ops.h -- operations as values: each call of Ops becomes an OpCall that can be
// run again and says what it has to move and compute.
#pragma once

#include <functional>
#include <vector>

#include "ops/ops.h"

namespace switchyard {

struct Work {
  double bytes = 0;
  double flops = 0;
  double weight_bytes = 0;  // of a GEMM: the weights of its active experts, part of bytes
  double link_bytes = 0;    // between this rank and others, part of bytes
};

// The values of an i32 tensor, wherever it lives.
using ReadI32 = std::function<std::vector<int32_t>(ConstTensor)>;

struct OpCall {
  const char* op;
  std::function<void(CUstream_st*)> run;
  // What the call had to do, once it has run and before another one takes its buffers: counts are
  // read. Nothing at all for calls that are only there to tell or check something.
  std::function<Work(const ReadI32&)> work;
};

class RecordedOps : public Ops {
 public:
  // `ops` runs the calls.
  explicit RecordedOps(Ops& ops) : ops_(ops) {}

  void gate_topk(const GateTopk& gate, CUstream_st* stream) final;
  void split_f32(Tensor dst, ConstTensor src, CUstream_st* stream) final;
  void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                          int64_t num_experts, int64_t num_ids, CUstream_st* stream) final;
  void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status,
                  CUstream_st* stream) final;
  void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                     int rank, Tensor status, CUstream_st* stream) final;
  void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                    int64_t num_local, int64_t num_experts, int rank, Tensor status,
                    CUstream_st* stream) final;
  void merge_status(Tensor status, ConstTensor headers, CUstream_st* stream) final;
  void block_rows(Tensor dst, int64_t stride, CUstream_st* stream) final;
  void check_headers(Tensor status, ConstTensor headers, int tp_size, CUstream_st* stream) final;
  void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers,
                   int rank, ConstTensor status, CUstream_st* stream) final;
  void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts, int rank,
                 int64_t block, CUstream_st* stream) final;
  void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts, int rank,
                   int64_t block, CUstream_st* stream) final;
  void note_ended(Tensor status, const int32_t* ended, int rank, CUstream_st* stream) final;
  void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                 Tensor status, CUstream_st* stream) final;
  void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status,
                  CUstream_st* stream) final;
  void scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                    CUstream_st* stream) final;
  void grouped_gemm(const GroupedGemm& gemm, CUstream_st* stream) final;
  void gather_rows(Tensor dst, const SlotSums& sums, const Addend& addend, ConstTensor num_rows,
                   const KeptRows& kept, CUstream_st* stream) final;
  void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                    CUstream_st* stream) final;
  void conv_decode(const ConvDecode& step, Tensor status, CUstream_st* stream) final;
  void conv_prefill_states(const ConvPrefillStates& step, Tensor status, CUstream_st* stream) final;
  void delta_rule_decode(const DeltaRuleDecode& step, Tensor status, CUstream_st* stream) final;
  void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
                 CUstream_st* stream) final;
  void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part,
                  Tensor status, CUstream_st* stream) final;
  void fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                  ConstTensor row_of_slot, ConstTensor num_rows, CUstream_st* stream) final;
  void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                  Tensor status, CUstream_st* stream) final;
  void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
                 const SlotSums& own, const Addend& addend, ConstTensor status,
                 CUstream_st* stream) final;
  void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                   ConstTensor status, CUstream_st* stream) final;
  void norm_rows(const NormRows& norm, CUstream_st* stream) final;
  void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights, CUstream_st* stream) final;
  void add_rows(Tensor dst, ConstTensor src, const Addend& addend, CUstream_st* stream) final;
  void widen(Tensor dst, ConstTensor src, CUstream_st* stream) final;
  void single_group(const RowGroups& groups, int64_t num_rows, CUstream_st* stream) final;
  void sigmoid(Tensor dst, ConstTensor src, CUstream_st* stream) final;
  void fill_i32(Tensor dst, int32_t value, CUstream_st* stream) final;
  void copy(Tensor dst, ConstTensor src, CUstream_st* stream) final;
  void poison(Tensor dst, ConstTensor status, CUstream_st* stream) final;

 protected:
  // Runs the call on `stream`, and does with it what the class is for.
  virtual void note(const OpCall& call, CUstream_st* stream) = 0;

 private:
  Ops& ops_;
};

}  // namespace switchyard
