// src/device/backend.cc -- what callers who see only the name Backend can do with one.
#include "base/backend.h"
#include "device/memory.h"

namespace switchyard {

std::shared_ptr<void> allocate(Backend& backend, size_t bytes) {
  return backend.memory().allocate(bytes);
}

void copy_to_device(Backend& backend, Tensor dst, const void* src, CUstream_st* stream) {
  backend.memory().copy_in(dst, src, stream);
}

void copy_to_host(Backend& backend, void* dst, ConstTensor src, CUstream_st* stream) {
  backend.memory().read_back(dst, src, stream);
}

void make_current(Backend& backend) {
  backend.memory().make_current();
}

std::shared_ptr<CUstream_st> make_stream(Backend& backend) {
  return backend.memory().make_stream();
}

void observe_operations(Backend& backend, OpObserver observer) {
  backend.observe(std::move(observer));
}

}  // namespace switchyard
