// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/arena.h -- cuts one workspace into tensors; with no workspace, counts what it would
// take.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked.h"
#include "switchyard/tensor.h"

namespace switchyard {

inline void require_aligned(const char* operation, const Workspace& workspace) {
  SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(workspace.data) % Workspace::kAlignment == 0,
                     Misaligned, operation, ": workspace address is not a multiple of ",
                     Workspace::kAlignment, ". Align it.");
}

// The same code that takes the tensors also sizes them: run it over an empty Workspace and read
// bytes(). So a size and its use cannot drift apart.
class Arena {
 public:
  explicit Arena(Workspace workspace, DeviceKind device = DeviceKind::Cpu)
      : workspace_(workspace), device_(device) {}

  Tensor take(DType dtype, Shape shape) {
    int64_t bytes = dtype_bytes(dtype);
    for (int i = 0; i < shape.rank(); ++i) bytes = checked_mul(bytes, shape[i], "workspace");
    return Tensor(take_bytes(bytes).data, dtype, shape, device_);
  }

  Workspace take_bytes(int64_t bytes) {
    constexpr auto kAlign = static_cast<int64_t>(Workspace::kAlignment);
    const int64_t end =
        checked_add(used_, checked_add(bytes, kAlign - 1, "workspace"), "workspace");
    void* address = nullptr;
    if (workspace_.data != nullptr) {
      SWITCHYARD_REQUIRE(end / kAlign * kAlign <= static_cast<int64_t>(workspace_.bytes),
                         ShapeMismatch, "workspace: bytes=", workspace_.bytes, ", need at least ",
                         end / kAlign * kAlign, ". Ask workspace_bytes() with the same arguments.");
      address = static_cast<std::byte*>(workspace_.data) + used_;
    }
    used_ = end / kAlign * kAlign;
    return {address, static_cast<size_t>(bytes)};
  }

  // What was taken is memory, and aligned: for who was given the workspace by a caller.
  void require_memory(const char* operation) const {
    SWITCHYARD_REQUIRE(used_ == 0 || workspace_.data != nullptr, ShapeMismatch, operation,
                       ": workspace=null, need ", used_, " bytes. Ask workspace_bytes().");
    require_aligned(operation, workspace_);
  }

  size_t bytes() const { return static_cast<size_t>(used_); }
  DeviceKind device() const { return device_; }

 private:
  Workspace workspace_;
  DeviceKind device_;
  int64_t used_ = 0;
};

}  // namespace switchyard
