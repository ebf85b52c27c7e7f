// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_memory.cc
#include "device/cuda_memory.h"

#include <cuda.h>

#include <algorithm>
#include <cstring>

#include "device/cuda_check.h"
#include "device/process_memory.h"

namespace switchyard {
namespace {

// Two halves: one is filled by the host while the other travels.
constexpr size_t kHalfBytes = size_t{16} << 20;

std::shared_ptr<void> allocate_pinned(size_t bytes) {
  void* address = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaMallocHost(&address, bytes));
  return {address, [](void* p) { (void)cudaFreeHost(p); }};
}

// The last owner may be a thread whose current device is another one.
template <class F>
void on(int device, F f) {
  int current = -1;
  const bool other = cudaGetDevice(&current) == cudaSuccess && current != device;
  if (other) (void)cudaSetDevice(device);
  f();
  if (other) (void)cudaSetDevice(current);
}

// Of the devices that this process sees, as it numbers them.
const std::vector<DeviceId>& visible_devices() {
  static const auto all = [] {
    int count = 0;
    SWITCHYARD_CUDA_CHECK(cudaGetDeviceCount(&count));
    std::vector<DeviceId> ids(count);
    for (int device = 0; device < count; ++device) {
      cudaDeviceProp properties{};
      SWITCHYARD_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
      static_assert(sizeof(DeviceId) == sizeof properties.uuid);
      std::memcpy(&ids[device], &properties.uuid, sizeof(DeviceId));
    }
    return ids;
  }();
  return all;
}

// -1: this process does not see it.
int ordinal_of(const DeviceId& id) {
  const auto& all = visible_devices();
  const auto found = std::find(all.begin(), all.end(), id);
  return found == all.end() ? -1 : static_cast<int>(found - all.begin());
}

// Where the allocation that holds `address` begins.
void* allocation_of(const void* address) {
  using GetRange = CUresult (*)(CUdeviceptr*, size_t*, CUdeviceptr);
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  SWITCHYARD_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function, 3020,
                                                         cudaEnableDefault, &found));
  CUdeviceptr base = 0;
  size_t bytes = 0;
  SWITCHYARD_REQUIRE(
      found == cudaDriverEntryPointSuccess &&
          reinterpret_cast<GetRange>(function)(
              &base, &bytes, reinterpret_cast<CUdeviceptr>(address)) == CUDA_SUCCESS,
      Unsupported, "share: address=", reinterpret_cast<uintptr_t>(address),
      ", the driver knows no allocation there. Let the layer allocate its workspace.");
  return reinterpret_cast<void*>(base);
}

// Of the whole process: all its backends and layers open through it.
OpenHandles& open_handles() {
  static OpenHandles handles;
  return handles;
}

}  // namespace

CudaMemory::CudaMemory(std::shared_ptr<Allocator> allocator) : allocator_(std::move(allocator)) {
  SWITCHYARD_CUDA_CHECK(cudaGetDevice(&device_));
}

std::shared_ptr<void> CudaMemory::allocate(size_t bytes) {
  free_deferred();
  std::shared_ptr<void> memory =
      allocator_ ? allocate_from(allocator_, bytes) : allocate_own(bytes);
  SWITCHYARD_REQUIRE(memory != nullptr, Unsupported, "allocate: bytes=", bytes,
                     ", this GPU has no such memory free. Use a smaller max_tokens or more ranks.");
  return memory;
}

std::shared_ptr<void> CudaMemory::allocate_own(size_t bytes) {
  void* address = nullptr;
  const cudaError_t code = cudaMalloc(&address, std::max<size_t>(bytes, 1));
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return nullptr;
  }
  SWITCHYARD_CUDA_CHECK(code);
  return {address, [device = device_](void* p) { on(device, [&] { (void)cudaFree(p); }); }};
}

DeviceId CudaMemory::id() const {
  return visible_devices().at(static_cast<size_t>(device_));
}

void CudaMemory::make_current() {
  SWITCHYARD_CUDA_CHECK(cudaSetDevice(device_));
}

std::shared_ptr<CUstream_st> CudaMemory::make_stream(bool urgent) {
  int least = 0, greatest = 0;
  SWITCHYARD_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t stream = nullptr;
  SWITCHYARD_CUDA_CHECK(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, urgent ? greatest : least));
  return {stream, [](cudaStream_t s) { (void)cudaStreamDestroy(s); }};
}

std::unique_ptr<StreamEvent> CudaMemory::make_event() {
  class Event final : public StreamEvent {
   public:
    Event() { SWITCHYARD_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
    ~Event() override { (void)cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    void record(cudaStream_t stream) override {
      SWITCHYARD_CUDA_CHECK(cudaEventRecord(event_, stream));
    }
    void wait(cudaStream_t stream) override {
      SWITCHYARD_CUDA_CHECK(cudaStreamWaitEvent(stream, event_, 0));
    }

   private:
    cudaEvent_t event_ = nullptr;
  };
  return std::make_unique<Event>();
}

std::string CudaMemory::reach(int other) {
  if (other == device_) return {};
  int can = 0;
  SWITCHYARD_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, device_, other));
  if (can == 0) return cat("device ", device_, " cannot reach memory of device ", other);
  const cudaError_t code = cudaDeviceEnablePeerAccess(other, 0);
  if (code == cudaErrorPeerAccessAlreadyEnabled)
    (void)cudaGetLastError();
  else
    SWITCHYARD_CUDA_CHECK(code);
  return {};
}

SharedRange CudaMemory::share(const void* address) {
  SharedRange range;
  void* base = allocation_of(address);
  range.offset = static_cast<const std::byte*>(address) - static_cast<const std::byte*>(base);
  cudaIpcMemHandle_t handle{};
  const cudaError_t code = cudaIpcGetMemHandle(&handle, base);
  if (code != cudaSuccess) (void)cudaGetLastError();
  SWITCHYARD_REQUIRE(code == cudaSuccess, Unsupported,
                     "share: cudaIpcGetMemHandle=", cudaGetErrorName(code),
                     ", other processes can open memory of cudaMalloc only, where the driver has "
                     "CUDA IPC. Let the layer allocate its workspace, or use threads as ranks.");
  static_assert(sizeof handle == sizeof range.handle);
  std::memcpy(range.handle.data(), &handle, sizeof handle);
  return range;
}

std::shared_ptr<void> CudaMemory::open(const SharedRange& range, const DeviceId& owner) {
  const int other = ordinal_of(owner);
  int can = 1;
  if (other >= 0 && other != device_)
    SWITCHYARD_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, device_, other));
  SWITCHYARD_REQUIRE(can != 0, Unsupported, "open: device ", device_,
                     " cannot reach memory of device ", other, ". Use devices that are linked.");
  const auto open = [&]() -> void* {
    cudaIpcMemHandle_t handle{};
    std::memcpy(&handle, range.handle.data(), sizeof handle);
    void* base = nullptr;
    const cudaError_t code = cudaIpcOpenMemHandle(&base, handle, cudaIpcMemLazyEnablePeerAccess);
    if (code != cudaSuccess) (void)cudaGetLastError();
    // The driver may open memory of a device that this process does not see; if not, that is why.
    SWITCHYARD_REQUIRE(
        code == cudaSuccess, Unsupported, "open: cudaIpcOpenMemHandle=", cudaGetErrorName(code),
        ", for memory of ",
        other >= 0 ? cat("device ", other) : "a device that this process does not see",
        ". Let every process see the devices of all (CUDA_VISIBLE_DEVICES), in one "
        "container.");
    return base;
  };
  const auto close = [device = device_](void* base) {
    on(device, [&] { (void)cudaIpcCloseMemHandle(base); });
  };
  auto base = open_handles().get({device_, range.handle}, open, close);
  auto* address = static_cast<std::byte*>(base.get()) + range.offset;
  // A kernel in flight may still reach there; its waits end at their deadline.
  return {address, [base = std::move(base), device = device_](void*) mutable {
            on(device, [] { (void)cudaDeviceSynchronize(); });
            base.reset();
          }};
}

std::shared_ptr<int32_t> CudaMemory::shared_word() {
  void* address = nullptr;
  // Mapped at the same address on every device, since addresses are unified.
  SWITCHYARD_CUDA_CHECK(
      cudaHostAlloc(&address, sizeof(int32_t), cudaHostAllocMapped | cudaHostAllocPortable));
  auto* word = static_cast<int32_t*>(address);
  *word = 0;
  return {word, [](int32_t* p) { (void)cudaFreeHost(p); }};
}

CudaMemory::Staging::Staging(CudaMemory& memory) : memory_(memory) {
  const std::lock_guard lock(memory_.mutex_);
  if (memory_.idle_staging_.empty()) {
    buffer_ = allocate_pinned(2 * kHalfBytes);
  } else {
    buffer_ = std::move(memory_.idle_staging_.back());
    memory_.idle_staging_.pop_back();
  }
}

CudaMemory::Staging::~Staging() {
  const std::lock_guard lock(memory_.mutex_);
  memory_.idle_staging_.push_back(std::move(buffer_));
}

// Through pinned memory: a copy to pageable memory may hold a lock of the driver while it waits for
// the stream, and what the stream waits for may be another thread's copy.
void CudaMemory::read_back(void* dst, ConstTensor src, CUstream_st* stream) {
  const Staging staging(*this);
  std::byte* stage = staging.data();
  const auto bytes = static_cast<size_t>(src.bytes());
  const auto* from = static_cast<const std::byte*>(src.data);
  for (size_t done = 0; done < bytes; done += 2 * kHalfBytes) {
    const size_t size = std::min(2 * kHalfBytes, bytes - done);
    SWITCHYARD_CUDA_CHECK(
        cudaMemcpyAsync(stage, from + done, size, cudaMemcpyDeviceToHost, stream));
    SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
    std::memcpy(static_cast<std::byte*>(dst) + done, stage, size);
  }
  if (bytes == 0) SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
}

void CudaMemory::copy_in(Tensor dst, const void* src, CUstream_st* stream) {
  const auto bytes = static_cast<size_t>(dst.bytes());
  const auto* from = static_cast<const std::byte*>(src);
  const Staging staging(*this);
  std::byte* half = staging.data();
  for (size_t done = 0, n = 0; done < bytes; done += kHalfBytes, ++n) {
    if (n % 2 == 0) SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
    const size_t size = std::min(kHalfBytes, bytes - done);
    std::byte* stage = half + n % 2 * kHalfBytes;
    std::memcpy(stage, from + done, size);
    SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(static_cast<std::byte*>(dst.data) + done, stage, size,
                                          cudaMemcpyHostToDevice, stream));
  }
  SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
}

}  // namespace switchyard
