// src/device/cuda_memory.h
#pragma once

#include "device/memory.h"

namespace switchyard {

// Memory of the CUDA device that is current when the object is made.
class CudaMemory final : public Memory {
 public:
  CudaMemory();

  DeviceKind kind() const override { return DeviceKind::Cuda; }
  std::shared_ptr<void> allocate(size_t bytes) override;
  int ordinal() const override { return device_; }
  void make_current() override;
  std::shared_ptr<CUstream_st> make_stream() override;
  std::string reach(int other) override;
  std::shared_ptr<int32_t> shared_word() override;
  void read_back(void* dst, ConstTensor src, CUstream_st* stream) override;
  void copy_in(Tensor dst, const void* src, CUstream_st* stream) override;

 private:
  int device_ = 0;
  std::shared_ptr<void> staging_;  // pinned, made by the first copy_in
};

}  // namespace switchyard
