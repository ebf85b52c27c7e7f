// src/device/cpu_memory.h
#pragma once

#include "device/memory.h"

namespace switchyard {

class CpuMemory final : public Memory {
 public:
  DeviceKind kind() const override { return DeviceKind::Cpu; }
  std::shared_ptr<void> allocate(size_t bytes) override;
  std::unique_ptr<StreamEvent> make_event() override;
  std::string reach(int) override { return {}; }
  SharedRange share(const void* address) override;
  std::shared_ptr<void> open(const SharedRange& range, const DeviceId& owner) override;
  std::shared_ptr<int32_t> shared_word() override { return std::make_shared<int32_t>(0); }
  void read_back(void* dst, ConstTensor src, CUstream_st* stream) override;
  void copy_in(Tensor dst, const void* src, CUstream_st* stream) override;
};

}  // namespace switchyard
