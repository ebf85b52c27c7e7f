// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/cuda_buffer.h -- device memory for tests: guarded and poisoned as buffer.h has it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "switchyard/backend.h"
#include "testing/buffer.h"

// At the head of a test that needs a GPU.
#define SWITCHYARD_SKIP_WITHOUT_GPU()                                           \
  if (!::switchyard::describe_device(::switchyard::DeviceKind::Cuda).available) \
  GTEST_SKIP() << "no GPU: "                                                    \
               << ::switchyard::describe_device(::switchyard::DeviceKind::Cuda).unavailable_reason

namespace switchyard::testing {

// One backend for all tests of the program.
inline Backend& cuda_backend() {
  static const std::shared_ptr<Backend> backend = make_cuda_backend();
  return *backend;
}

// A device copy of a host Buffer, its guards included. Work on view(), then look at host().
template <class T>
class CudaBuffer {
 public:
  CudaBuffer() = default;
  // Poisoned, like a fresh Buffer.
  explicit CudaBuffer(Shape shape) : CudaBuffer(Buffer<T>(shape)) {}
  explicit CudaBuffer(Buffer<T> host) : host_(std::move(host)) {
    memory_ = allocate(cuda_backend(), static_cast<size_t>(bytes()));
    copy_to_device(cuda_backend(), whole(), host_.data() - Buffer<T>::kGuard);
  }

  Tensor view() {
    return {static_cast<T*>(memory_.get()) + Buffer<T>::kGuard, host_.view().shape,
            DeviceKind::Cuda};
  }
  // Waits for the device; the guards come along.
  const Buffer<T>& host() {
    copy_to_host(cuda_backend(), host_.data() - Buffer<T>::kGuard, whole());
    return host_;
  }

 private:
  int64_t elements() const { return host_.count() + 2 * Buffer<T>::kGuard; }
  int64_t bytes() const { return elements() * static_cast<int64_t>(sizeof(T)); }
  Tensor whole() { return {static_cast<T*>(memory_.get()), {elements()}, DeviceKind::Cuda}; }

  Buffer<T> host_;
  std::shared_ptr<void> memory_;
};

// Copies buffers of any type to the device, where they live as long as this.
class CudaCopies {
 public:
  template <class T>
  Tensor operator()(const Buffer<T>& host) {
    auto copy = std::make_shared<CudaBuffer<T>>(host);
    copies_.push_back(copy);
    return copy->view();
  }

 private:
  std::vector<std::shared_ptr<void>> copies_;
};

}  // namespace switchyard::testing
