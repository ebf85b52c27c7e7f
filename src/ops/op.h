// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/op.h -- an operation is a value: a struct with its operands, its name and its work.
//
//     struct Copy {
//       static constexpr const char* kName = "copy";
//       Tensor dst;
//       ConstTensor src;  // equal bytes
//       Work work(const ReadI32&) const { return {2 * tensor_bytes(src)}; }
//     };
//
// A backend runs it: cpu/run.h, cuda/run.h. Recording, tracing and counting take any of them.
#pragma once

#include <functional>
#include <variant>
#include <vector>

#include "switchyard/tensor.h"

namespace switchyard {

// What an operation has to move and compute for the rows that it is given.
struct Work {
  double bytes = 0;
  double flops = 0;
  double weight_bytes = 0;  // of a GEMM: the weights of its active experts, part of bytes
  double link_bytes = 0;    // between this rank and others, part of bytes
  double f8_flops = 0;      // of products of f8_e4m3, part of flops
};

// The values of an i32 tensor, wherever it lives. Work is asked for once an operation has run and
// before another one takes its buffers.
using ReadI32 = std::function<std::vector<int32_t>(ConstTensor)>;

inline double tensor_bytes(ConstTensor t) {
  return static_cast<double>(t.bytes());
}
inline double row_bytes(ConstTensor t, double rows) {
  return rows * static_cast<double>(t.dim(1) * dtype_bytes(t.dtype));
}

template <class... Op>
struct OpList {
  using Variant = std::variant<Op...>;
};

template <class... A, class... B>
OpList<A..., B...> operator+(OpList<A...>, OpList<B...>);

// GEMMs of different layers are different lines of a trace: such an operation has its own name.
template <class Op>
const char* name_of(const Op& op) {
  if constexpr (requires { op.name; })
    return op.name;
  else
    return Op::kName;
}

}  // namespace switchyard
