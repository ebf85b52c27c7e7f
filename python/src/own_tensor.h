// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/own_tensor.h -- memory of Switchyard's own, as Python sees it: switchyard.Tensor.
#pragma once

#include <memory>

#include "arrays.h"

namespace switchyard::python {

struct OwnTensor {
  Tensor view;
  int device_index = 0;
  bool read_only = false;
  std::shared_ptr<const void> memory;
};

// On the CPU, at least Workspace::kAlignment-aligned, not initialised.
OwnTensor make_own_tensor(DType dtype, Shape shape);

// What keeps memory that an object owns; given back with the interpreter's lock.
std::shared_ptr<const void> reference_to(nb::handle object);

}  // namespace switchyard::python
