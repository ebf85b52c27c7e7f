// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/context.cc -- a device, its memory, workspaces that layers share.
#include "c_api/handles.h"
#include "c_api/lent.h"
#include "c_api/tensor.h"
#include "c_api/versioned.h"
#include "switchyard/backend.h"

namespace switchyard::c_api {
namespace {

swy_context_options default_context_options() {
  return {.size = sizeof(swy_context_options),
          .device = SWY_CPU,
          .device_index = -1,
          .num_threads = 0,
          .num_sms = 0,
          .allocator = nullptr,
          .task_runner = nullptr};
}

void check_version(const char* op, uint32_t version) {
  SWITCHYARD_C_REQUIRE(version > 0, op, ": version=0, no header has it. Pass SWY_VERSION.");
  SWITCHYARD_REQUIRE(version <= SWY_VERSION, Unsupported, op, ": version=", version,
                     ", the header is newer than this library, which has version ", SWY_VERSION,
                     " (", swy_version_string(), "). Use a library as new as the header.");
}

class ProgramsAllocator final : public Allocator {
 public:
  explicit ProgramsAllocator(const swy_allocator& calls) : calls_(calls) {}
  void* allocate(size_t bytes) override { return calls_.allocate(calls_.user, bytes); }
  void free(void* address, size_t bytes) noexcept override {
    calls_.free(calls_.user, address, bytes);
  }
  void own() { lent_.own(calls_.release, calls_.user); }

 private:
  const swy_allocator calls_;
  Lent lent_;
};

class ProgramsThreads final : public TaskRunner {
 public:
  explicit ProgramsThreads(const swy_task_runner& calls) : calls_(calls) {}
  int num_threads() const override { return calls_.num_threads; }
  void run(int64_t num_tasks, void (*task)(void*, int64_t), void* context) override {
    calls_.run(calls_.user, num_tasks, task, context);
  }
  void own() { lent_.own(calls_.release, calls_.user); }

 private:
  const swy_task_runner calls_;
  Lent lent_;
};

std::shared_ptr<ProgramsAllocator> allocator_of(const char* op, const swy_allocator* calls) {
  if (calls == nullptr) return nullptr;
  required(op, "allocator.allocate", calls->allocate);
  required(op, "allocator.free", calls->free);
  return std::make_shared<ProgramsAllocator>(*calls);
}

std::shared_ptr<ProgramsThreads> threads_of(const char* op, const swy_task_runner* calls) {
  if (calls == nullptr) return nullptr;
  required(op, "task_runner.run", calls->run);
  check_reserved(op, "task_runner.reserved", static_cast<uint32_t>(calls->reserved));
  return std::make_shared<ProgramsThreads>(*calls);
}

void check_numbers(const char* op, const swy_context_options& o) {
  const bool cpu = enumerator<DeviceKind>(op, "device", o.device, SWY_CUDA + 1) == DeviceKind::Cpu;
  check_range(op, "device_index", o.device_index, -1, cpu ? 0 : INT32_MAX);
  check_range(op, "num_threads", o.num_threads, 0, cpu ? INT32_MAX : 0);
  check_range(op, "num_sms", o.num_sms, 0, cpu ? 0 : INT32_MAX);
}

std::shared_ptr<Backend> make_backend(const char* op, const swy_context_options& o,
                                      std::shared_ptr<Allocator> allocator,
                                      std::shared_ptr<TaskRunner> threads) {
  if (o.device == SWY_CPU)
    return make_cpu_backend({.num_threads = o.num_threads,
                             .task_runner = std::move(threads),
                             .allocator = std::move(allocator)});
  SWITCHYARD_C_REQUIRE(threads == nullptr, op,
                       ": task_runner is given, a CUDA context has no threads. Pass NULL.");
  return make_cuda_backend(
      {.num_sms = o.num_sms, .device = o.device_index, .allocator = std::move(allocator)});
}

std::unique_ptr<swy_context> make_context(const char* op, const swy_context_options& o) {
  check_numbers(op, o);  // before any address is followed: of garbage a number is wrong, too
  const auto allocator = allocator_of(op, o.allocator);
  const auto threads = threads_of(op, o.task_runner);
  auto context = std::make_unique<swy_context>();
  context->backend = make_backend(op, o, allocator, threads);
  context->device = static_cast<DeviceKind>(o.device);
  if (allocator) allocator->own();
  if (threads) threads->own();
  return context;
}

// Dense memory of the context's device.
Tensor on_device(const char* op, const char* name, const swy_tensor* given,
                 const swy_context& context) {
  const Tensor t = dense(op, name, required(op, name, given));
  SWITCHYARD_REQUIRE(!t.present() || t.device == context.device, ShapeMismatch, op, ": ", name,
                     " is on ", device_name(t.device), ", the context on ",
                     device_name(context.device), ". Pass memory of its device.");
  return t;
}

}  // namespace
}  // namespace switchyard::c_api

extern "C" {

swy_status swy_context_options_init(swy_context_options* options, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_context_options_init", options, size, default_context_options());
}

swy_status swy_context_create(uint32_t version, const swy_context_options* options,
                              swy_context** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_context_create";
    check_version(kOp, version);
    required(kOp, "out", out);
    *out = make_context(kOp, read_or(kOp, "options", options, default_context_options())).release();
  });
}

void swy_context_destroy(swy_context* context) {
  switchyard::c_api::destroy(context);
}

swy_status swy_memory_create(swy_context* context, size_t bytes, swy_memory** out, void** data) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_memory_create";
    const swy_context& of = handle(kOp, "context", context);
    required(kOp, "out", out);
    required(kOp, "data", data);
    auto memory = std::make_unique<swy_memory>();
    memory->backend = of.backend;
    memory->memory = switchyard::allocate(*of.backend, bytes);
    *data = memory->memory.get();
    *out = memory.release();
  });
}

void swy_memory_destroy(swy_memory* memory) {
  switchyard::c_api::destroy(memory);
}

swy_status swy_copy_to_device(swy_context* context, const swy_tensor* dst, const void* src,
                              void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_copy_to_device";
    const swy_context& of = handle(kOp, "context", context);
    const switchyard::Tensor to = on_device(kOp, "dst", dst, of);
    if (to.bytes() == 0) return;
    required(kOp, "src", static_cast<const char*>(src));
    switchyard::copy_to_device(*of.backend, to, src, static_cast<CUstream_st*>(stream));
  });
}

swy_status swy_copy_to_host(swy_context* context, void* dst, const swy_tensor* src, void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_copy_to_host";
    const swy_context& of = handle(kOp, "context", context);
    const switchyard::Tensor from = on_device(kOp, "src", src, of);
    if (from.bytes() > 0) required(kOp, "dst", static_cast<char*>(dst));
    switchyard::copy_to_host(*of.backend, dst, from, static_cast<CUstream_st*>(stream));
  });
}

swy_status swy_shared_workspace_create(swy_context* context, size_t bytes,
                                       swy_shared_workspace** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_shared_workspace_create";
    const swy_context& of = handle(kOp, "context", context);
    required(kOp, "out", out);
    auto shared = std::make_unique<swy_shared_workspace>();
    shared->workspace = std::make_shared<switchyard::SharedWorkspace>(of.backend, bytes);
    *out = shared.release();
  });
}

void swy_shared_workspace_destroy(swy_shared_workspace* workspace) {
  switchyard::c_api::destroy(workspace);
}

}  // extern "C"
