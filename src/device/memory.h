// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/memory.h -- allocate and copy, one form per device. Used at creation and in wait only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "switchyard/backend.h"
#include "switchyard/tensor.h"

namespace switchyard {

// A point in a stream that other streams wait for. On a CPU, where work runs as it comes, nothing.
class StreamEvent {
 public:
  virtual ~StreamEvent() = default;
  virtual void record(CUstream_st* stream) = 0;
  // Work enqueued on `stream` from here on waits for what was recorded last.
  virtual void wait(CUstream_st* stream) = 0;
};

// The same in every process of the host, whichever devices it sees and however it numbers them.
using DeviceId = std::array<int64_t, 2>;

// Memory of a device as another process of the host finds it. Plain words: they cross processes.
struct SharedRange {
  std::array<int64_t, 8> handle{};  // of the allocation
  int64_t offset = 0;               // in it
};

// Null where there is no such memory. What allocated it lives as long.
inline std::shared_ptr<void> allocate_from(const std::shared_ptr<Allocator>& allocator,
                                           size_t bytes) {
  void* address = allocator->allocate(bytes);
  if (address == nullptr) return nullptr;
  return {address, [allocator, bytes](void* p) { allocator->free(p, bytes); }};
}

class Memory {
 public:
  virtual ~Memory() = default;
  virtual DeviceKind kind() const = 0;
  // At least Workspace::kAlignment-aligned. Freed with the last copy of the pointer.
  // Throws Error(Unsupported) naming the bytes when there is no such memory.
  virtual std::shared_ptr<void> allocate(size_t bytes) = 0;
  // The device among those of its kind.
  virtual int ordinal() const { return 0; }
  virtual DeviceId id() const { return {}; }
  virtual void make_current() {}
  // Of this device; waits for no other stream. An urgent one's blocks go before those of others.
  // Null where there are none.
  virtual std::shared_ptr<CUstream_st> make_stream(bool urgent = false) {
    (void)urgent;
    return nullptr;
  }
  virtual std::unique_ptr<StreamEvent> make_event() = 0;
  // Lets work of this device reach memory of device `other`. Says why not; empty: it can.
  virtual std::string reach(int other) = 0;
  // Lets other processes of the host open the allocation that holds `address`.
  // Throws Error(Unsupported) where they cannot.
  virtual SharedRange share(const void* address) = 0;
  // What another process shared, memory of its device `owner`, at an address that work of this
  // device can reach; closed with the last copy of the pointer. It must be closed before the other
  // process frees it. Throws Error(Unsupported) with the reason.
  virtual std::shared_ptr<void> open(const SharedRange& range, const DeviceId& owner) = 0;
  // One i32, 0, that the host and work of the device both see at the same address.
  virtual std::shared_ptr<int32_t> shared_word() = 0;
  // Waits for the stream, then copies device memory to the host.
  virtual void read_back(void* dst, ConstTensor src, CUstream_st* stream) = 0;
  // Copies dst.bytes() from the host, and waits until they are there.
  virtual void copy_in(Tensor dst, const void* src, CUstream_st* stream) = 0;
};

}  // namespace switchyard
