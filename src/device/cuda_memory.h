// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_memory.h
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "device/memory.h"

namespace switchyard {

// Memory of the CUDA device that is current when the object is made.
class CudaMemory final : public Memory {
 public:
  explicit CudaMemory(std::shared_ptr<Allocator> allocator = nullptr);

  DeviceKind kind() const override { return DeviceKind::Cuda; }
  std::shared_ptr<void> allocate(size_t bytes) override;
  int ordinal() const override { return device_; }
  DeviceId id() const override;
  void make_current() override;
  std::shared_ptr<CUstream_st> make_stream(bool urgent) override;
  std::unique_ptr<StreamEvent> make_event() override;
  std::string reach(int other) override;
  SharedRange share(const void* address) override;
  std::shared_ptr<void> open(const SharedRange& range, const DeviceId& owner) override;
  std::shared_ptr<int32_t> shared_word() override;
  void read_back(void* dst, ConstTensor src, CUstream_st* stream) override;
  void copy_in(Tensor dst, const void* src, CUstream_st* stream) override;

 private:
  // By cudaMalloc; null where there is no such memory.
  std::shared_ptr<void> allocate_own(size_t bytes);

  // A pinned buffer for the length of a copy: threads that share a backend have one each.
  class Staging {
   public:
    explicit Staging(CudaMemory& memory);
    ~Staging();
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;
    std::byte* data() const { return static_cast<std::byte*>(buffer_.get()); }

   private:
    CudaMemory& memory_;
    std::shared_ptr<void> buffer_;
  };

  int device_ = 0;
  std::shared_ptr<Allocator> allocator_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<void>> idle_staging_;  // one after the first copy
};

}  // namespace switchyard
