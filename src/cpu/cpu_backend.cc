// src/cpu/cpu_backend.cc -- the CPU's form of every operation, in one list.
#include <algorithm>
#include <thread>

#include "base/backend.h"
#include "base/require.h"
#include "cpu/conv_decode.h"
#include "cpu/conv_prefill_states.h"
#include "cpu/delta_rule_decode.h"
#include "cpu/exchange.h"
#include "cpu/gate_topk.h"
#include "cpu/group_rows.h"
#include "cpu/grouped_gemm.h"
#include "cpu/path_ops.h"
#include "cpu/peer_exchange.h"
#include "cpu/plan_dispatch.h"
#include "cpu/plan_rows.h"
#include "cpu/row_blocks.h"
#include "cpu/row_ops.h"
#include "cpu/small_ops.h"
#include "device/cpu_memory.h"
#include "ops/traced_ops.h"

namespace switchyard {
namespace cpu {
namespace {

class CpuOps final : public Ops {
 public:
  CpuOps(int num_threads, CpuForm form) : pool_(num_threads), fast_(form == CpuForm::Fast) {}

  void gate_topk(const GateTopk& gate, CUstream_st*) override { cpu::gate_topk(gate, pool_); }
  void split_f32(Tensor dst, ConstTensor src, CUstream_st*) override { cpu::split_f32(dst, src); }
  void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                          int64_t num_experts, int64_t num_ids, CUstream_st*) override {
    cpu::split_zero_experts(dst_ids, identity, ids, weights, num_experts, num_ids);
  }
  void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status,
                  CUstream_st*) override {
    cpu::narrow_ids(dst, src, num_experts, rank, status);
  }
  void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                     int rank, Tensor status, CUstream_st*) override {
    cpu::plan_dispatch(plan, ids, num_experts, num_ranks, rank, status);
  }
  void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                    int64_t num_local, int64_t num_experts, int rank, Tensor status,
                    CUstream_st*) override {
    cpu::localize_ids(dst, src, num_rows, first, num_local, num_experts, rank, status);
  }
  void merge_status(Tensor status, ConstTensor headers, CUstream_st*) override {
    cpu::merge_status(status, headers);
  }
  void block_rows(Tensor dst, int64_t stride, CUstream_st*) override {
    cpu::block_rows(dst, stride);
  }
  void check_headers(Tensor status, ConstTensor headers, int tp_size, CUstream_st*) override {
    cpu::check_headers(status, headers, tp_size);
  }
  void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers,
                   int rank, ConstTensor status, CUstream_st*) override {
    cpu::read_counts(counts, counts_back, num_rows, headers, rank, status);
  }
  void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts, int rank,
                 int64_t block, CUstream_st*) override {
    cpu::pack_rows(dst, src, send_rows, counts, rank, block);
  }
  void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts, int rank,
                   int64_t block, CUstream_st*) override {
    cpu::unpack_rows(dst, blocks, own, counts, rank, block);
  }
  void note_ended(Tensor status, const int32_t* ended, int rank, CUstream_st*) override {
    cpu::note_ended(status, ended, rank);
  }
  void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                 Tensor status, CUstream_st*) override {
    cpu::plan_rows(plan, ids, num_rows, rank, status);
  }
  void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status,
                  CUstream_st*) override {
    cpu::group_rows(groups, row_expert, rank, status);
  }
  void scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                    CUstream_st*) override {
    fast_ ? scatter_rows_fast(dst, src, row_of_slot, num_rows, pool_)
          : scatter_rows_plain(dst, src, row_of_slot, num_rows);
  }
  void grouped_gemm(const GroupedGemm& gemm, CUstream_st*) override {
    fast_ ? grouped_gemm_fast(gemm, pool_) : grouped_gemm_plain(gemm);
  }
  void gather_rows(Tensor dst, const SlotSums& sums, const Addend& addend, ConstTensor num_rows,
                   const KeptRows& kept, CUstream_st*) override {
    fast_ ? gather_rows_fast(dst, sums, addend, num_rows, kept, pool_)
          : gather_rows_plain(dst, sums, addend, num_rows, kept);
  }
  void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                    CUstream_st*) override {
    fast_ ? sum_partials_fast(dst, src, return_row, addend, pool_)
          : sum_partials_plain(dst, src, return_row, addend);
  }
  void conv_decode(const ConvDecode& step, Tensor status, CUstream_st*) override {
    cpu::conv_decode(step, status, pool_);
  }
  void conv_prefill_states(const ConvPrefillStates& step, Tensor status, CUstream_st*) override {
    cpu::conv_prefill_states(step, status, pool_);
  }
  void delta_rule_decode(const DeltaRuleDecode& step, Tensor status, CUstream_st*) override {
    cpu::delta_rule_decode(step, status, pool_);
  }
  void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
                 CUstream_st*) override {
    cpu::push_rows(window, push, status);
  }
  void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part,
                  Tensor status, CUstream_st*) override {
    cpu::await_rows(window, arrival, part, status);
  }
  void fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                  ConstTensor row_of_slot, ConstTensor num_rows, CUstream_st*) override {
    cpu::fetch_rows(window, dst, rows, block, row_of_slot, num_rows);
  }
  void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                  Tensor status, CUstream_st*) override {
    cpu::meet_peers(window, phase, part, first, num, status);
  }
  void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
                 const SlotSums& own, const Addend& addend, ConstTensor status,
                 CUstream_st*) override {
    cpu::pull_sums(window, dst, partial, return_row, own, addend, status);
  }
  void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                   ConstTensor status, CUstream_st*) override {
    cpu::pull_slices(window, dst, slice, first, num, status);
  }
  void norm_rows(const NormRows& norm, CUstream_st*) override { cpu::norm_rows(norm, pool_); }
  void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights, CUstream_st*) override {
    cpu::weigh_shared(dst, src, weights, pool_);
  }
  void add_rows(Tensor dst, ConstTensor src, const Addend& addend, CUstream_st*) override {
    cpu::add_rows(dst, src, addend, pool_);
  }
  void widen(Tensor dst, ConstTensor src, CUstream_st*) override { cpu::widen(dst, src); }
  void single_group(const RowGroups& groups, int64_t num_rows, CUstream_st*) override {
    cpu::single_group(groups, num_rows);
  }
  void sigmoid(Tensor dst, ConstTensor src, CUstream_st*) override { cpu::sigmoid(dst, src); }
  void fill_i32(Tensor dst, int32_t value, CUstream_st*) override { cpu::fill_i32(dst, value); }
  void copy(Tensor dst, ConstTensor src, CUstream_st*) override { cpu::copy(dst, src); }
  void poison(Tensor dst, ConstTensor status, CUstream_st*) override { cpu::poison(dst, status); }

 private:
  ThreadPool pool_;
  bool fast_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int num_threads, CpuForm form) : ops_(num_threads, form), traced_(ops_) {}

  DeviceKind kind() const override { return DeviceKind::Cpu; }
  GemmProvider provider() const override { return GemmProvider::Cpu; }
  Memory& memory() override { return memory_; }
  Ops& ops() override {
    if (diverted_ != nullptr) return *diverted_;
    return traced_.observed() ? static_cast<Ops&>(traced_) : ops_;
  }
  void observe(OpObserver observer) override { traced_.observe(std::move(observer)); }
  void divert(Ops* ops) override { diverted_ = ops; }

 private:
  CpuMemory memory_;
  CpuOps ops_;
  TracedOps traced_;
  Ops* diverted_ = nullptr;
};

}  // namespace
}  // namespace cpu

std::shared_ptr<Backend> make_cpu_backend(int num_threads, CpuForm form) {
  SWITCHYARD_REQUIRE(num_threads >= 0 && num_threads <= 4096, ShapeMismatch,
                     "make_cpu_backend: num_threads=", num_threads,
                     ", need 0 (one per core) to 4096.");
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return std::make_shared<cpu::CpuBackend>(num_threads == 0 ? cores : num_threads, form);
}

}  // namespace switchyard
