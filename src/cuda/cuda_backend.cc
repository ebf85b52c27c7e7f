// src/cuda/cuda_backend.cc -- the CUDA form of every operation, in one list.
#include "base/backend.h"
#include "base/require.h"
#include "cuda/cublas.h"
#include "cuda/load_kernels.h"
#include "cuda/ops.h"
#include "device/cuda_check.h"
#include "device/cuda_memory.h"
#include "ops/traced_ops.h"

namespace switchyard {
namespace cuda {
namespace {

class CudaOps final : public Ops {
 public:
  explicit CudaOps(int num_sms) : num_sms_(num_sms) {}

  void gate_topk(const GateTopk& gate, CUstream_st* stream) override {
    cuda::gate_topk(gate, stream);
  }
  void split_f32(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    cuda::split_f32(dst, src, stream);
  }
  void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                          int64_t num_experts, int64_t num_ids, CUstream_st* stream) override {
    cuda::split_zero_experts(dst_ids, identity, ids, weights, num_experts, num_ids, stream);
  }
  void narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank, Tensor status,
                  CUstream_st* stream) override {
    cuda::narrow_ids(dst, src, num_experts, rank, status, stream);
  }
  void plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts, int num_ranks,
                     int rank, Tensor status, CUstream_st* stream) override {
    cuda::plan_dispatch(plan, ids, num_experts, num_ranks, rank, status, stream);
  }
  void localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                    int64_t num_local, int64_t num_experts, int rank, Tensor status,
                    CUstream_st* stream) override {
    cuda::localize_ids(dst, src, num_rows, first, num_local, num_experts, rank, status, stream);
  }
  void merge_status(Tensor status, ConstTensor headers, CUstream_st* stream) override {
    cuda::merge_status(status, headers, stream);
  }
  void block_rows(Tensor dst, int64_t stride, CUstream_st* stream) override {
    cuda::block_rows(dst, stride, stream);
  }
  void check_headers(Tensor status, ConstTensor headers, int tp_size,
                     CUstream_st* stream) override {
    cuda::check_headers(status, headers, tp_size, stream);
  }
  void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers,
                   int rank, ConstTensor status, CUstream_st* stream) override {
    cuda::read_counts(counts, counts_back, num_rows, headers, rank, status, stream);
  }
  void pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts, int rank,
                 int64_t block, CUstream_st* stream) override {
    cuda::pack_rows(dst, src, send_rows, counts, rank, block, stream);
  }
  void unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts, int rank,
                   int64_t block, CUstream_st* stream) override {
    cuda::unpack_rows(dst, blocks, own, counts, rank, block, stream);
  }
  void note_ended(Tensor status, const int32_t* ended, int rank, CUstream_st* stream) override {
    cuda::note_ended(status, ended, rank, stream);
  }
  void plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                 Tensor status, CUstream_st* stream) override {
    cuda::plan_rows(plan, ids, num_rows, rank, status, stream);
  }
  void group_rows(const RowGroups& groups, ConstTensor row_expert, int rank, Tensor status,
                  CUstream_st* stream) override {
    cuda::group_rows(groups, row_expert, rank, status, stream);
  }
  void scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot, ConstTensor num_rows,
                    CUstream_st* stream) override {
    cuda::scatter_rows(dst, src, row_of_slot, num_rows, stream);
  }
  void grouped_gemm(const GroupedGemm& gemm, CUstream_st* stream) override {
    gemm.provider == GemmProvider::Cublas ? cublas_.grouped_gemm(gemm, stream)
                                          : grouped_gemm_hopper(gemm, sms_of(gemm), stream);
  }
  void gather_rows(Tensor dst, const SlotSums& sums, const Addend& addend, ConstTensor num_rows,
                   const KeptRows& kept, CUstream_st* stream) override {
    cuda::gather_rows(dst, sums, addend, num_rows, kept, stream);
  }
  void sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row, const Addend& addend,
                    CUstream_st* stream) override {
    cuda::sum_partials(dst, src, return_row, addend, stream);
  }
  void conv_decode(const ConvDecode& step, Tensor status, CUstream_st* stream) override {
    cuda::conv_decode(step, status, stream);
  }
  void conv_prefill_states(const ConvPrefillStates& step, Tensor status,
                           CUstream_st* stream) override {
    cuda::conv_prefill_states(step, status, stream);
  }
  void delta_rule_decode(const DeltaRuleDecode& step, Tensor status, CUstream_st* stream) override {
    cuda::delta_rule_decode(step, status, stream);
  }
  void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
                 CUstream_st* stream) override {
    cuda::push_rows(window, push, status, stream);
  }
  void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part,
                  Tensor status, CUstream_st* stream) override {
    cuda::await_rows(window, arrival, part, status, stream);
  }
  void fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                  ConstTensor row_of_slot, ConstTensor num_rows, CUstream_st* stream) override {
    cuda::fetch_rows(window, dst, rows, block, row_of_slot, num_rows, stream);
  }
  void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                  Tensor status, CUstream_st* stream) override {
    cuda::meet_peers(window, phase, part, first, num, status, stream);
  }
  void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
                 const SlotSums& own, const Addend& addend, ConstTensor status,
                 CUstream_st* stream) override {
    cuda::pull_sums(window, dst, partial, return_row, own, addend, status, stream);
  }
  void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                   ConstTensor status, CUstream_st* stream) override {
    cuda::pull_slices(window, dst, slice, first, num, status, stream);
  }
  void norm_rows(const NormRows& norm, CUstream_st* stream) override {
    cuda::norm_rows(norm, stream);
  }
  void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights,
                    CUstream_st* stream) override {
    cuda::weigh_shared(dst, src, weights, stream);
  }
  void add_rows(Tensor dst, ConstTensor src, const Addend& addend, CUstream_st* stream) override {
    cuda::add_rows(dst, src, addend, stream);
  }
  void widen(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    cuda::widen(dst, src, stream);
  }
  void single_group(const RowGroups& groups, int64_t num_rows, CUstream_st* stream) override {
    cuda::single_group(groups, num_rows, stream);
  }
  void sigmoid(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    cuda::sigmoid(dst, src, stream);
  }
  void fill_i32(Tensor dst, int32_t value, CUstream_st* stream) override {
    cuda::fill_i32(dst, value, stream);
  }
  void copy(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    cuda::copy(dst, src, stream);
  }
  void poison(Tensor dst, ConstTensor status, CUstream_st* stream) override {
    cuda::poison(dst, status, stream);
  }

 private:
  // The call's own number may exceed the backend's, never the device's.
  int sms_of(const GroupedGemm& gemm) const {
    const int all = describe_device(DeviceKind::Cuda).num_sms;
    SWITCHYARD_REQUIRE(gemm.num_sms >= 0 && gemm.num_sms <= all, ShapeMismatch, gemm.name,
                       ": num_sms=", gemm.num_sms, ", need 0 (the backend's) to ", all,
                       ". Pass a number of multiprocessors that the device has.");
    return gemm.num_sms == 0 ? num_sms_ : gemm.num_sms;
  }

  int num_sms_;
  Cublas cublas_;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int num_sms, GemmProvider provider)
      : provider_(provider), ops_(num_sms), traced_(ops_) {}

  DeviceKind kind() const override { return DeviceKind::Cuda; }
  GemmProvider provider() const override { return provider_; }
  Memory& memory() override { return memory_; }
  Ops& ops() override {
    if (diverted_ != nullptr) return *diverted_;
    return traced_.observed() ? static_cast<Ops&>(traced_) : ops_;
  }
  void load_kernels() override { cuda::load_kernels(); }
  void observe(OpObserver observer) override { traced_.observe(std::move(observer)); }
  void divert(Ops* ops) override { diverted_ = ops; }

 private:
  GemmProvider provider_;
  CudaMemory memory_;
  CudaOps ops_;
  TracedOps traced_;
  Ops* diverted_ = nullptr;
};

}  // namespace
}  // namespace cuda

std::shared_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  const auto& device = describe_device(DeviceKind::Cuda);
  SWITCHYARD_REQUIRE(device.available, Unsupported, "make_cuda_backend: device=cuda, ",
                     device.unavailable_reason, ". Use the CPU.");
  SWITCHYARD_REQUIRE(options.num_sms >= 0 && options.num_sms <= device.num_sms, ShapeMismatch,
                     "make_cuda_backend: num_sms=", options.num_sms, ", need 0 (all) to ",
                     device.num_sms, ".");
  SWITCHYARD_REQUIRE(options.device >= -1 && options.device < device.num_devices, ShapeMismatch,
                     "make_cuda_backend: device=", options.device,
                     ", need -1 (the current one) to ", device.num_devices - 1, ".");
  if (options.device >= 0) SWITCHYARD_CUDA_CHECK(cudaSetDevice(options.device));
  const bool hopper = device.compute_major == 9 && device.compute_minor == 0;
  return std::make_shared<cuda::CudaBackend>(
      options.num_sms == 0 ? device.num_sms : options.num_sms,
      hopper ? GemmProvider::Hopper : GemmProvider::Cublas);
}

}  // namespace switchyard
