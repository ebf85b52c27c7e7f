// src/cpu/cpu_backend.cc -- threads and memory of a CPU, and the operations that run on them.
#include <algorithm>
#include <thread>

#include "base/backend.h"
#include "base/require.h"
#include "cpu/run.h"
#include "device/cpu_memory.h"
#include "ops/traced_ops.h"

namespace switchyard {
namespace cpu {
namespace {

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
