// src/device/cuda_memory.cc
#include "device/cuda_memory.h"

#include <algorithm>
#include <cstring>

#include "device/cuda_check.h"

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
void free_on(int device, void* address) {
  int current = -1;
  const bool other = cudaGetDevice(&current) == cudaSuccess && current != device;
  if (other) (void)cudaSetDevice(device);
  (void)cudaFree(address);
  if (other) (void)cudaSetDevice(current);
}

}  // namespace

CudaMemory::CudaMemory() {
  SWITCHYARD_CUDA_CHECK(cudaGetDevice(&device_));
}

std::shared_ptr<void> CudaMemory::allocate(size_t bytes) {
  void* address = nullptr;
  const cudaError_t code = cudaMalloc(&address, std::max<size_t>(bytes, 1));
  if (code == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    throw Error(Errc::Unsupported,
                cat("allocate: bytes=", bytes, ", this GPU has no such memory free. Use a smaller ",
                    "max_tokens or more ranks."));
  }
  SWITCHYARD_CUDA_CHECK(code);
  return {address, [device = device_](void* p) { free_on(device, p); }};
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
