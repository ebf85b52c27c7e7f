// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/backend.h -- public: the device a layer runs on, with its threads or streams.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

/// What one operation of a layer took. Bytes and flops are what the operation had to move and
/// compute for the rows it was given, so rate = bytes / us compares with the machine's limits.
struct OpEvent {
  const char* op;  // a name from ops.h: "grouped_gemm1", "scatter_rows", ...
  double us;
  double bytes;
  double flops;
  double weight_bytes;  // of a GEMM: the weights of its active experts, part of bytes
};
using OpObserver = std::function<void(const OpEvent&)>;

/// The parts of a forward, in their order.
enum class Phase { Gate, Dispatch, Experts, Combine };

/// Memory and operations of one device. Opaque; shared by the gate, dispatcher and executor of a
/// layer. One backend serves one thread of the host at a time.
class Backend;

/// Which form of each CPU operation runs.
enum class CpuForm {
  Fast,   // Highway, threads
  Plain,  // the form that defines the meaning: one thread, sums in double; slow
};

/// Memory of the host's own, in place of what a backend would allocate: for weights, workspaces and
/// state, never in forward. Any thread may call it. On CUDA it gives memory of the backend's device
/// that cudaMalloc made, which ranks on one host open in each other's processes.
class Allocator {
 public:
  virtual ~Allocator() = default;
  /// At least Workspace::kAlignment-aligned; null where there is no such memory.
  virtual void* allocate(size_t bytes) = 0;
  virtual void free(void* address, size_t bytes) noexcept = 0;
};

/// Threads of the host's own, in place of a CPU backend's.
class TaskRunner {
 public:
  virtual ~TaskRunner() = default;
  /// At most this many tasks run at a time, at least 1; it stays the same.
  virtual int num_threads() const = 0;
  /// task(context, i) for every i in [0, num_tasks), on any threads in any order; returns when all
  /// have run, which the caller sees. A task neither throws nor calls this.
  virtual void run(int64_t num_tasks, void (*task)(void* context, int64_t i), void* context) = 0;
};

struct CpuOptions {
  int num_threads = 0;  // in all, the caller's included; 0: one per core. Without task_runner
  CpuForm form = CpuForm::Fast;
  std::shared_ptr<TaskRunner> task_runner{};  // absent: the backend has threads of its own
  std::shared_ptr<Allocator> allocator{};     // absent: the C++ runtime's
};

/// Throws Error(ShapeMismatch) for a number of threads that no machine has.
std::shared_ptr<Backend> make_cpu_backend(const CpuOptions& options);
std::shared_ptr<Backend> make_cpu_backend(int num_threads = 0, CpuForm form = CpuForm::Fast);

struct CudaOptions {
  int num_sms = 0;  // streaming multiprocessors that the grouped GEMMs may use; 0: all
  int device = -1;  // becomes the calling thread's current device; -1: the one that is current
  std::shared_ptr<Allocator> allocator{};  // absent: cudaMalloc
};

/// A CUDA device; the backend, its layers and their streams stay on it, and whatever thread uses
/// them has it as its current device. Throws Error(Unsupported) when this build or machine has none
/// (see describe_device).
std::shared_ptr<Backend> make_cuda_backend(const CudaOptions& options = {});

/// Memory of the backend's device, at least Workspace::kAlignment-aligned, freed with the last copy
/// of the pointer. Throws Error(Unsupported) with the bytes when there is no such memory.
std::shared_ptr<void> allocate(Backend& backend, size_t bytes);
/// A workspace, and what keeps it; without that the caller does.
struct OwnedWorkspace {
  Workspace workspace;
  std::shared_ptr<void> memory;
};

/// One workspace for layers whose calls follow each other, as those of a model do.
///
///     options.shared_workspace = std::make_shared<SharedWorkspace>(options.backend);
///     for (...) layers.push_back(MoeLayer::create(config, weights, options));
///
/// It has the size of the largest that was asked for. What was given stays valid for whoever holds
/// it, captured graphs included: so reserve the largest first, or every growth keeps a second one.
/// Thread safety: any thread may reserve; whose calls overlap must not share.
class SharedWorkspace {
 public:
  /// Throws Error(Unsupported) with the bytes when there is no such memory.
  explicit SharedWorkspace(std::shared_ptr<Backend> backend, size_t bytes = 0);
  ~SharedWorkspace();
  SharedWorkspace(const SharedWorkspace&) = delete;
  SharedWorkspace& operator=(const SharedWorkspace&) = delete;

  /// At least `bytes`, aligned to Workspace::kAlignment. Not while a graph is captured. Throws as
  /// the constructor does; what it has stays then.
  OwnedWorkspace reserve(size_t bytes);
  size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// dst (memory of the backend's device) = src (on the host), equal bytes; waits for the copy.
void copy_to_device(Backend& backend, Tensor dst, const void* src, CUstream_st* stream = nullptr);
/// Waits for `stream`, then dst (on the host) = src (memory of the backend's device).
void copy_to_host(Backend& backend, void* dst, ConstTensor src, CUstream_st* stream = nullptr);

/// The backend's device becomes the calling thread's current one; nothing on the CPU.
void make_current(Backend& backend);
/// A stream of the backend's device that waits for no other; null on the CPU.
std::shared_ptr<CUstream_st> make_stream(Backend& backend);

/// Calls `observer` after each operation, on the thread that called forward. An empty observer ends
/// it.
void observe_operations(Backend& backend, OpObserver observer);

/// What is known about a device before anything runs on it. Plain data, so that choosing a strategy
/// stays a pure function; the rates are nominal unless somebody measured them.
struct DeviceDescription {
  DeviceKind kind = DeviceKind::Cpu;
  std::string name;                // "x86-64, AVX-512", "NVIDIA H100 80GB HBM3"
  bool available = true;           // this build and this machine can run on it
  std::string unavailable_reason;  // one line, when not available
  int compute_major = 0;           // CUDA only
  int compute_minor = 0;
  int num_sms = 0;  // CUDA only
  /// CUDA only: whether cuBLAS can be opened. Asked when a strategy over it is evaluated, since the
  /// first look may take most of a second. Null: it can.
  bool (*has_cublas)() = nullptr;
  int num_devices = 0;       // CUDA only; those that this process can see, taken to be alike
  double memory_bytes = 0;   // of the device
  double read_gbps = 20;     // streaming read, GB/s
  double gemm_gflops = 100;  // bf16 in, fp32 sums, GFLOP/s
  double link_gbps = 10;     // between two ranks, GB/s
};

/// Never throws: what cannot be had is `available = false` with its reason. Probed once per
/// process.
const DeviceDescription& describe_device(DeviceKind kind);

}  // namespace switchyard
