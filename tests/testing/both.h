// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/both.h -- one tensor on the host and on the GPU, for operations that must give the
// same bits on both.
#pragma once

#include "base/backend.h"
#include "ops/ops.h"
#include "testing/cuda_buffer.h"

namespace switchyard::testing {

// The operations as the CPU's plain form defines them, and the GPU's.
inline Ops& plain_ops() {
  static const std::shared_ptr<Backend> backend = make_cpu_backend(1, CpuForm::Plain);
  return backend->ops();
}
inline Ops& cuda_ops() {
  return cuda_backend().ops();
}

template <class T>
class Both {
 public:
  explicit Both(Shape shape) : Both(Buffer<T>(shape)) {}  // poisoned
  explicit Both(Buffer<T> content) : cpu_(content), gpu_(std::move(content)) {}
  static Both of(std::initializer_list<T> values) {
    Buffer<T> content({static_cast<int64_t>(values.size())});
    std::copy(values.begin(), values.end(), content.data());
    return Both(std::move(content));
  }

  Tensor cpu() { return cpu_.view(); }
  Tensor gpu() { return gpu_.view(); }
  const Buffer<T>& expected() const { return cpu_; }
  const Buffer<T>& computed() { return gpu_.host(); }

  // Whether both hold the same bits now, and nobody wrote outside.
  ::testing::AssertionResult same() {
    const Buffer<T>& gpu = gpu_.host();
    if (!cpu_.guards_intact() || !gpu.guards_intact())
      return ::testing::AssertionFailure() << "written outside the tensor";
    for (int64_t i = 0; i < cpu_.count(); ++i)
      if (std::memcmp(&cpu_[i], &gpu[i], sizeof(T)) != 0)
        return ::testing::AssertionFailure() << "element " << i << " of " << cpu_.count() << ": "
                                             << number(gpu[i]) << ", need " << number(cpu_[i]);
    return ::testing::AssertionSuccess();
  }

 private:
  static double number(T value) { return static_cast<double>(static_cast<float>(value)); }

  Buffer<T> cpu_;
  CudaBuffer<T> gpu_;
};

template <>
inline double Both<int32_t>::number(int32_t value) {
  return value;
}

// Runs an operation on the GPU and, in the plain form, on the CPU. make(at) gives it, at(tensor) a
// tensor's side.
template <class Make>
void run_on_both(const Make& make) {
  plain_ops().run(make([](auto& t) { return t.cpu(); }), nullptr);
  cuda_ops().run(make([](auto& t) { return t.gpu(); }), nullptr);
}

// A status without an error.
inline Both<int32_t> good_status() {
  return Both<int32_t>::of({0, 0, 0, 0, 0});
}

}  // namespace switchyard::testing
