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

}  // namespace switchyard::python
