// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/shared_memory.h -- a CPU whose memory other processes can open, as they can a
// GPU's: what ranks as processes do without one.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

#include "base/backend.h"
#include "base/require.h"
#include "device/memory.h"
#include "device/process_memory.h"

namespace switchyard::testing {

// What the memories of all processes count together; lives in memory that they share.
struct SharedCounts {
  std::atomic<int> opened{0};              // mappings of other processes' memory, now
  std::atomic<int> calls_of_open{0};       // of the system
  std::atomic<int> allocated{0};           // now
  std::atomic<int> freed_while_opened{0};  // by the one who may not
};

// An allocation begins with this page, which whoever opens it sees, too.
struct AllocationHead {
  std::atomic<int> opened{0};
};
inline constexpr size_t kHeadBytes = 4096;

inline OpenHandles& open_shared_handles() {
  static OpenHandles handles;
  return handles;
}

class SharedCpuMemory final : public Memory {
 public:
  SharedCpuMemory(Memory& cpu, SharedCounts& counts) : cpu_(cpu), counts_(counts) {}

  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::unique_ptr<StreamEvent> make_event() override { return cpu_.make_event(); }
  std::string reach(int) override { return {}; }
  std::shared_ptr<int32_t> shared_word() override { return cpu_.shared_word(); }
  void read_back(void* dst, ConstTensor src, CUstream_st* stream) override {
    cpu_.read_back(dst, src, stream);
  }
  void copy_in(Tensor dst, const void* src, CUstream_st* stream) override {
    cpu_.copy_in(dst, src, stream);
  }

  std::shared_ptr<void> allocate(size_t bytes) override {
    free_deferred();
    const int fd = memfd_create("switchyard-test", MFD_CLOEXEC);
    const size_t all = kHeadBytes + bytes + 1;
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(all)) != 0)
      throw Error(Errc::Unsupported, "allocate: no file in memory.");
    auto* base =
        static_cast<std::byte*>(mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    new (base) AllocationHead;
    ++counts_.allocated;
    const auto allocations = allocations_;
    {
      const std::lock_guard lock(allocations->mutex);
      allocations->by_end[base + all] = {base, fd};
    }
    return {base + kHeadBytes, [allocations, base, all, fd, &counts = counts_](void*) {
              {
                const std::lock_guard lock(allocations->mutex);
                allocations->by_end.erase(base + all);
              }
              if (reinterpret_cast<AllocationHead*>(base)->opened != 0) ++counts.freed_while_opened;
              munmap(base, all);
              close(fd);
              --counts.allocated;
            }};
  }

  SharedRange share(const void* address) override {
    const std::lock_guard lock(allocations_->mutex);
    const auto* at = static_cast<const std::byte*>(address);
    const auto found = allocations_->by_end.upper_bound(at);
    if (found == allocations_->by_end.end() || found->second.base > at)
      throw Error(Errc::Unsupported, "share: no allocation of this memory.");
    SharedRange range;
    range.handle = {getpid(), found->second.fd, found->first - found->second.base};
    range.offset = at - found->second.base;
    return range;
  }

  std::shared_ptr<void> open(const SharedRange& range, const DeviceId&) override {
    const auto bytes = static_cast<size_t>(range.handle[2]);
    auto base = open_shared_handles().get(
        {0, range.handle},
        [&]() -> void* {
          const auto path = cat("/proc/", range.handle[0], "/fd/", range.handle[1]);
          const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
          if (fd < 0) throw Error(Errc::Unsupported, cat("open: ", std::strerror(errno)));
          void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
          close(fd);
          ++counts_.calls_of_open, ++counts_.opened;
          ++static_cast<AllocationHead*>(mapped)->opened;
          return mapped;
        },
        [bytes, &counts = counts_](void* mapped) {
          --static_cast<AllocationHead*>(mapped)->opened;
          --counts.opened;
          munmap(mapped, bytes);
        });
    auto* address = static_cast<std::byte*>(base.get()) + range.offset;
    return {std::move(base), address};
  }

 private:
  struct Allocation {
    std::byte* base;
    int fd;
  };
  struct Allocations {
    std::mutex mutex;
    std::map<const std::byte*, Allocation> by_end;
  };

  Memory& cpu_;
  SharedCounts& counts_;
  std::shared_ptr<Allocations> allocations_ = std::make_shared<Allocations>();
};

// A CPU backend with such memory.
class SharedCpuBackend final : public Backend {
 public:
  explicit SharedCpuBackend(SharedCounts& counts) : memory_(cpu_->memory(), counts) {}

  DeviceKind kind() const override { return cpu_->kind(); }
  GemmProvider provider() const override { return cpu_->provider(); }
  Memory& memory() override { return memory_; }
  Ops& ops() override { return cpu_->ops(); }
  void observe(OpObserver observer) override { cpu_->observe(std::move(observer)); }
  void divert(Ops* ops) override { cpu_->divert(ops); }

 private:
  std::shared_ptr<Backend> cpu_ = make_cpu_backend(1);
  SharedCpuMemory memory_;
};

}  // namespace switchyard::testing
