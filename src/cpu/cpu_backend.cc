// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/cpu_backend.cc -- threads and memory of a CPU, and the operations that run on them.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/as_error.h"
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

class AlignedAllocator final : public Allocator {
 public:
  void* allocate(size_t bytes) override {
    constexpr size_t kAlign = Workspace::kAlignment;
    return bytes > SIZE_MAX - kAlign ? nullptr
                                     : std::aligned_alloc(kAlign, (bytes / kAlign + 1) * kAlign);
  }
  void free(void* address, size_t) noexcept override { std::free(address); }
};

class CpuMemory final : public Memory {
 public:
  explicit CpuMemory(std::shared_ptr<Allocator> allocator) : allocator_(std::move(allocator)) {
    if (!allocator_) allocator_ = std::make_shared<AlignedAllocator>();
  }

  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::shared_ptr<void> allocate(size_t bytes) override {
    auto memory = allocate_from(allocator_, bytes);
    SWITCHYARD_REQUIRE(
        memory != nullptr, Unsupported, "allocate: bytes=", bytes,
        ", this machine has no such memory. Use a smaller max_tokens or more ranks.");
    return memory;
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

 private:
  std::shared_ptr<Allocator> allocator_;
};

class CpuOps final : public Ops {
 public:
  CpuOps(const CpuOptions& o)
      : pool_(o.num_threads, o.task_runner), context_{pool_, o.form == CpuForm::Fast} {}

  void run(const AnyOp& any, CUstream_st*) override {
    std::visit([this](const auto& op) { cpu::run(op, context_); }, any);
  }

 private:
  ThreadPool pool_;
  Context context_;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : memory_(options.allocator), ops_(options), traced_(ops_) {}

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

std::shared_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  CpuOptions o = options;
  SWITCHYARD_REQUIRE(o.num_threads >= 0 && o.num_threads <= 4096, ShapeMismatch,
                     "make_cpu_backend: num_threads=", o.num_threads,
                     ", need 0 (one per core) to 4096.");
  SWITCHYARD_REQUIRE(!o.task_runner || o.num_threads == 0, ShapeMismatch,
                     "make_cpu_backend: num_threads=", o.num_threads,
                     ", the task_runner has threads of its own. Leave num_threads away.");
  SWITCHYARD_REQUIRE(!o.task_runner || o.task_runner->num_threads() >= 1, ShapeMismatch,
                     "make_cpu_backend: task_runner.num_threads=", o.task_runner->num_threads(),
                     ", need at least 1.");
  SWITCHYARD_REQUIRE(o.form == CpuForm::Fast || o.form == CpuForm::Plain, ShapeMismatch,
                     "make_cpu_backend: form=", static_cast<int>(o.form),
                     ", is none of CpuForm. Pass Fast or Plain.");
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  if (o.num_threads == 0 && !o.task_runner) o.num_threads = cores;
  return as_errors("make_cpu_backend", [&] { return std::make_shared<cpu::CpuBackend>(o); });
}

std::shared_ptr<Backend> make_cpu_backend(int num_threads, CpuForm form) {
  return make_cpu_backend({.num_threads = num_threads, .form = form});
}

}  // namespace switchyard
