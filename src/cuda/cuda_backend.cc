// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cuda_backend.cc -- a device and its memory, and the operations that run on it.
#include <optional>

#include "base/backend.h"
#include "base/require.h"
#include "cuda/cublas.h"
#include "cuda/load_kernels.h"
#include "cuda/run.h"
#include "device/cuda_check.h"
#include "device/cuda_memory.h"
#include "ops/traced_ops.h"

namespace switchyard {
namespace cuda {
namespace {

class CudaOps final : public Ops {
 public:
  explicit CudaOps(int num_sms) : num_sms_(num_sms) {}

  int num_sms() const { return num_sms_; }
  Cublas& cublas() { return cublas_ ? *cublas_ : cublas_.emplace(); }

  void run(const AnyOp& any, CUstream_st* stream) override {
    std::visit([&](const auto& op) { run_one(op, stream); }, any);
  }

  // The call's own number may exceed the backend's, never the device's.
  template <class Gemm>
  int sms_of(const Gemm& gemm) const {
    const int all = describe_device(DeviceKind::Cuda).num_sms;
    SWITCHYARD_REQUIRE(gemm.num_sms >= 0 && gemm.num_sms <= all, ShapeMismatch, gemm.name,
                       ": num_sms=", gemm.num_sms, ", need 0 (the backend's) to ", all,
                       ". Pass a number of multiprocessors that the device has.");
    return gemm.num_sms == 0 ? num_sms_ : gemm.num_sms;
  }

 private:
  template <class Op>
  void run_one(const Op& op, CUstream_st* stream) {
    cuda::run(op, stream);
  }
  void run_one(const GroupedGemm& gemm, CUstream_st* stream) {
    gemm.provider == GemmProvider::Cublas ? cublas().grouped_gemm(gemm, stream)
                                          : grouped_gemm_hopper(gemm, sms_of(gemm), stream);
  }
  void run_one(const ScaledGemm& gemm, CUstream_st* stream) {
    const auto& device = describe_device(DeviceKind::Cuda);
    SWITCHYARD_REQUIRE(device.compute_major == 9 && device.compute_minor == 0, Unsupported,
                       gemm.name, ": compute capability=", device.compute_major, ".",
                       device.compute_minor,
                       ", experts in f8_e4m3 need 9.0. Load the weights as bf16.");
    scaled_gemm_hopper(gemm, sms_of(gemm), stream);
  }
  void run_one(const RouterLogits& op, CUstream_st* stream) { router_logits(op, num_sms_, stream); }
  void run_one(const ChooseExperts& op, CUstream_st* stream) {
    choose_experts(op, num_sms_, stream);
  }

  int num_sms_;
  std::optional<Cublas> cublas_;  // its handle and memory: only where somebody wants its GEMMs
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int num_sms, GemmProvider provider, std::shared_ptr<Allocator> allocator)
      : provider_(provider), memory_(std::move(allocator)), ops_(num_sms), traced_(ops_) {}

  DeviceKind kind() const override { return DeviceKind::Cuda; }
  GemmProvider provider() const override { return provider_; }
  Memory& memory() override { return memory_; }
  Ops& ops() override {
    if (diverted_ != nullptr) return *diverted_;
    return traced_.observed() ? static_cast<Ops&>(traced_) : ops_;
  }
  int num_sms() const override { return ops_.num_sms(); }
  int rows_of_tile(const GroupedGemm& gemm) const override {
    return gemm.provider == GemmProvider::Hopper ? cuda::rows_of_tile(gemm, ops_.sms_of(gemm)) : 0;
  }
  void load_kernels() override { cuda::load_kernels(); }
  void prepare(GemmProvider provider) override {
    if (provider == GemmProvider::Cublas) ops_.cublas();
  }
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
      hopper ? GemmProvider::Hopper : GemmProvider::Cublas, options.allocator);
}

}  // namespace switchyard
