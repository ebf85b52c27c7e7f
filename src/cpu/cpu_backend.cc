// src/cpu/cpu_backend.cc -- threads and memory of a CPU, and the operations that run on them.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/backend.h"
#include "base/require.h"
#include "cpu/run.h"
#include "device/memory.h"
#include "ops/traced_ops.h"

namespace switchyard {
namespace cpu {
namespace {

[[noreturn]] void refuse(const char* operation) {
  throw Error(Errc::Unsupported, cat(operation, ": device=cpu, processes do not reach into each ",
                                     "other's memory there. Use the communicator's dispatchers."));
}

class CpuMemory final : public Memory {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::shared_ptr<void> allocate(size_t bytes) override {
    constexpr size_t kAlign = Workspace::kAlignment;
    void* address = bytes > SIZE_MAX - kAlign
                        ? nullptr
                        : std::aligned_alloc(kAlign, (bytes / kAlign + 1) * kAlign);
    SWITCHYARD_REQUIRE(
        address != nullptr, Unsupported, "allocate: bytes=", bytes,
        ", this machine has no such memory. Use a smaller max_tokens or more ranks.");
    return {address, std::free};
  }
  std::unique_ptr<StreamEvent> make_event() override {
    struct Nothing final : StreamEvent {
      void record(CUstream_st*) override {}
      void wait(CUstream_st*) override {}
    };
    return std::make_unique<Nothing>();
  }
  std::string reach(int) override { return {}; }
  SharedRange share(const void*) override { refuse("share"); }
  std::shared_ptr<void> open(const SharedRange&, const DeviceId&) override { refuse("open"); }
  std::shared_ptr<int32_t> shared_word() override { return std::make_shared<int32_t>(0); }
  void read_back(void* dst, ConstTensor src, CUstream_st*) override {
    if (src.bytes() > 0) std::memcpy(dst, src.data, src.bytes());
  }
  void copy_in(Tensor dst, const void* src, CUstream_st*) override {
    if (dst.bytes() > 0) std::memcpy(dst.data, src, dst.bytes());
  }
};

class CpuOps final : public Ops {
 public:
  CpuOps(int num_threads, CpuForm form)
      : pool_(num_threads), context_{pool_, form == CpuForm::Fast} {}

  void run(const AnyOp& any, CUstream_st*) override {
    std::visit([this](const auto& op) { cpu::run(op, context_); }, any);
  }

 private:
  ThreadPool pool_;
  Context context_;
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
