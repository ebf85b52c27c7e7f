// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/scratch.cc -- where the memory of a call comes from.
#include "scratch.h"

#include <cstdlib>
#include <new>

namespace switchyard::python {
namespace {

constexpr size_t kAlign = Workspace::kAlignment;

size_t rounded_up(size_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

Workspace scratch_of_thread(size_t bytes) {
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  if (bytes > size) {
    size = 0;
    memory.reset();
    memory.reset(std::aligned_alloc(kAlign, rounded_up(bytes)));
    if (!memory) throw std::bad_alloc();
    size = rounded_up(bytes);
  }
  return {memory.get(), bytes};
}

size_t bytes_with_alignment(size_t bytes) {
  return rounded_up(bytes) + kAlign;
}

Workspace aligned_part(void* memory, size_t bytes) {
  return {reinterpret_cast<void*>(rounded_up(reinterpret_cast<uintptr_t>(memory))), bytes};
}

Scratch::Scratch(nb::handle like, DeviceIndex device, size_t bytes) {
  if (device.kind == DeviceKind::Cpu) {
    workspace_ = scratch_of_thread(bytes);
    return;
  }
  // An element has 4 bytes; arrays are aligned to less than a workspace.
  const auto elements = static_cast<int64_t>(bytes_with_alignment(bytes)) / 4;
  array_ = new_array(like, DType::I32, {elements}, device);
  const ArrayView view = view_of(array_, {"workspace", "memory"}, Access::Write, Keep::ForTheCall);
  workspace_ = aligned_part(view.data, bytes);
}

}  // namespace switchyard::python
