// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/tensor.h -- swy_tensor to and from the views of C++.
#pragma once

#include "c_api/call.h"
#include "switchyard/linear_attention.h"
#include "switchyard/tensor.h"

namespace switchyard::c_api {

// Row-major without gaps. Throws Unsupported for others.
Tensor dense(const char* operation, const char* name, const swy_tensor& t);
// Rows that may have gaps between them. `stride` is the distance of two; 0: no gaps.
Tensor rows_of(const char* operation, const char* name, const swy_tensor& t, int64_t& stride);
StridedTensor strided(const char* operation, const char* name, const swy_tensor& t);
swy_tensor from_view(const ConstTensor& t);

}  // namespace switchyard::c_api
