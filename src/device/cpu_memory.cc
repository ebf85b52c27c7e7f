// src/device/cpu_memory.cc
#include "device/cpu_memory.h"

#include <cstdlib>
#include <cstring>

#include "base/require.h"

namespace switchyard {
namespace {

[[noreturn]] void refuse(const char* operation) {
  throw Error(Errc::Unsupported, cat(operation, ": device=cpu, processes do not reach into each ",
                                     "other's memory there. Use the communicator's dispatchers."));
}

}  // namespace

SharedRange CpuMemory::share(const void*) {
  refuse("share");
}

std::shared_ptr<void> CpuMemory::open(const SharedRange&, const DeviceId&) {
  refuse("open");
}

std::shared_ptr<void> CpuMemory::allocate(size_t bytes) {
  constexpr size_t kAlign = Workspace::kAlignment;
  void* address = bytes > SIZE_MAX - kAlign
                      ? nullptr
                      : std::aligned_alloc(kAlign, (bytes / kAlign + 1) * kAlign);
  SWITCHYARD_REQUIRE(address != nullptr, Unsupported, "allocate: bytes=", bytes,
                     ", this machine has no such memory. Use a smaller max_tokens or more ranks.");
  return {address, std::free};
}

std::unique_ptr<StreamEvent> CpuMemory::make_event() {
  struct Nothing final : StreamEvent {
    void record(CUstream_st*) override {}
    void wait(CUstream_st*) override {}
  };
  return std::make_unique<Nothing>();
}

void CpuMemory::read_back(void* dst, ConstTensor src, CUstream_st*) {
  if (src.bytes() > 0) std::memcpy(dst, src.data, src.bytes());
}

void CpuMemory::copy_in(Tensor dst, const void* src, CUstream_st*) {
  if (dst.bytes() > 0) std::memcpy(dst.data, src, dst.bytes());
}

}  // namespace switchyard
