// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/scratch.h -- memory that one call needs and nobody after it.
#pragma once

#include "arrays.h"

namespace switchyard::python {

// On CUDA an array of the caller's library, whose allocator knows streams and captures; on a CPU
// memory that the thread keeps for its next call.
class Scratch {
 public:
  Scratch(nb::handle like, DeviceIndex device, size_t bytes);
  const Workspace& workspace() const { return workspace_; }

 private:
  Workspace workspace_;
  nb::object array_;
};

// Of the CPU's kind: grows only, and is the thread's until it ends.
Workspace scratch_of_thread(size_t bytes);
// Bytes to ask an allocator for, such that aligned_part() of them is a workspace of `bytes`.
size_t bytes_with_alignment(size_t bytes);
Workspace aligned_part(void* memory, size_t bytes);

}  // namespace switchyard::python
