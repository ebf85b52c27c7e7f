// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/linear_attention/checks.cc
#include "linear_attention/checks.h"

#include <algorithm>
#include <initializer_list>

#include "base/checked.h"
#include "base/shape_text.h"
#include "plan/state_slots.h"

namespace switchyard {
namespace {

constexpr int64_t kVectorBytes = 16;     // what the kernels copy at once
constexpr int64_t kChannelMultiple = 8;  // 16 bytes of bf16

// An argument with its operation and name, for messages.
struct Named {
  const char* op;
  const char* name;
  ConstTensor tensor;

  void is_one_of(std::initializer_list<DType> allowed) const {
    if (std::find(allowed.begin(), allowed.end(), tensor.dtype) != allowed.end()) return;
    std::string names;
    for (const DType dtype : allowed) names += cat(names.empty() ? "" : " or ", dtype_name(dtype));
    throw Error(Errc::ShapeMismatch, cat(op, ": ", name, " dtype=", dtype_name(tensor.dtype),
                                         ", need ", names, ". Convert it."));
  }
  void has_shape(const Shape& need) const {
    SWITCHYARD_REQUIRE(tensor.shape == need, ShapeMismatch, op, ": ", name, "=",
                       shape_text(tensor.shape), ", need ", shape_text(need), ". Reshape it.");
  }
  void has_rank(int low, int high, const char* need) const {
    SWITCHYARD_REQUIRE(tensor.shape.rank() >= low && tensor.shape.rank() <= high, ShapeMismatch, op,
                       ": ", name, "=", shape_text(tensor.shape), ", need ", need, ". Reshape it.");
    int64_t count = dtype_bytes(tensor.dtype);
    for (int d = 0; d < tensor.shape.rank(); ++d) count = checked_mul(count, tensor.dim(d), op);
  }
  void is_on(DeviceKind device) const {
    SWITCHYARD_REQUIRE(tensor.device == device, ShapeMismatch, op, ": ", name, " is on ",
                       device_name(tensor.device), ", the backend on ", device_name(device),
                       ". Pass memory of the backend's device.");
    SWITCHYARD_REQUIRE(tensor.data != nullptr || tensor.count() == 0, ShapeMismatch, op, ": ", name,
                       "=null, need ", shape_text(tensor.shape), ". Pass its memory.");
  }
  void is_aligned() const {
    SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(tensor.data) % kVectorBytes == 0, Misaligned, op,
                       ": ", name, " address=", reinterpret_cast<uintptr_t>(tensor.data),
                       ", need a multiple of ", kVectorBytes, " (copied as vectors). Align it.");
  }
};

void check_batch(const char* op, int64_t batch, int64_t max_batch) {
  SWITCHYARD_REQUIRE(batch <= max_batch, ShapeMismatch, op, ": batch=", batch, ", need at most ",
                     max_batch, ". Create with a larger max_batch.");
}

void check_tokens(const char* op, int64_t tokens) {
  SWITCHYARD_REQUIRE(tokens >= 1 && tokens <= kMaxStepTokens, Unsupported, op, ": tokens=", tokens,
                     ", need 1 to ", kMaxStepTokens, " in one step. Take several steps.");
}

void check_table(const char* op, const StateMap& map, int64_t batch, DeviceKind device) {
  SWITCHYARD_REQUIRE(map.num_slots >= 1, ShapeMismatch, op, ": num_slots=", map.num_slots,
                     ", need at least 1. Pass the columns of block_map.");
  SWITCHYARD_REQUIRE(map.row_stride >= map.num_slots, ShapeMismatch, op,
                     ": row_stride=", map.row_stride, ", need at least num_slots=", map.num_slots,
                     ". Pass the columns of the table that block_map is a view of.");
  checked_mul(checked_mul(map.row_stride, batch, op), dtype_bytes(DType::I32), op);
  SWITCHYARD_REQUIRE(map.block_tokens >= 1 && map.block_tokens <= INT32_MAX, ShapeMismatch, op,
                     ": block_tokens=", map.block_tokens, ", need 1 to ", INT32_MAX,
                     ". Pass the tokens of one block.");
  SWITCHYARD_REQUIRE(map.first_block == 0 || map.first_block == 1, ShapeMismatch, op,
                     ": first_block=", map.first_block,
                     ", need 1 (block 0 is padding) or 0. Pass one of them.");
  const Named block_map{op, "block_map", map.block_map};
  block_map.is_one_of({DType::I32});
  block_map.has_shape({batch, map.num_slots});
  block_map.is_on(device);
}

void check_lengths(const char* op, const StateMap& map, int64_t batch, DeviceKind device) {
  const Named lengths{op, "sequence_lengths", map.sequence_lengths};
  lengths.is_one_of({DType::I32});
  lengths.has_shape({batch});
  lengths.is_on(device);
}

// Dense inside a block, `block` elements; blocks any multiple of 16 bytes apart.
void check_pool(const Named& state, const StridedTensor& strides, int64_t block) {
  state.is_aligned();
  const int64_t distance = strides.stride(0), bytes = dtype_bytes(state.tensor.dtype);
  SWITCHYARD_REQUIRE(distance >= block, ShapeMismatch, state.op, ": state stride=", distance,
                     ", need at least the ", block, " elements of a block. Pass block distances.");
  checked_mul(checked_mul(distance, bytes, state.op), state.tensor.dim(0), state.op);
  SWITCHYARD_REQUIRE(distance * bytes % kVectorBytes == 0, Misaligned, state.op,
                     ": state stride=", distance, " elements of ", bytes,
                     " bytes, need a multiple of ", kVectorBytes, " bytes. Pad the blocks.");
}

// [num_blocks, D, w - 1] of a convolution; its width.
int64_t check_conv_state(const char* op, const StridedTensor& state, int64_t dim,
                         DeviceKind device) {
  const Named named{op, "state", state};
  named.is_one_of({DType::Bf16, DType::F32});
  named.has_rank(3, 3, "[num_blocks, D, w - 1]");
  named.is_on(device);
  const int64_t depth = state.dim(2);
  SWITCHYARD_REQUIRE(depth + 1 >= kMinConvWidth && depth + 1 <= kMaxConvWidth, Unsupported, op,
                     ": width=", depth + 1, ", need ", kMinConvWidth, " to ", kMaxConvWidth,
                     " (state has width - 1 values). Use such a convolution.");
  SWITCHYARD_REQUIRE(dim <= INT32_MAX, ShapeMismatch, op, ": D=", dim, ", need at most ", INT32_MAX,
                     ". Pass fewer channels.");
  SWITCHYARD_REQUIRE(dim % kChannelMultiple == 0, Misaligned, op, ": D=", dim,
                     ", need a multiple of ", kChannelMultiple,
                     " (channels are copied as 16-byte vectors). Pad the channels.");
  named.has_shape({state.dim(0), dim, depth});
  SWITCHYARD_REQUIRE(state.stride(2) == 1 && state.stride(1) == depth, ShapeMismatch, op,
                     ": state strides=", state.stride(1), ", ", state.stride(2), ", need ", depth,
                     ", 1: values of a channel side by side. Transpose the state.");
  check_pool(named, state, checked_mul(dim, depth, op));
  return depth + 1;
}

// q, k or v: any distances that stay inside memory that can be addressed.
void check_strided(const char* op, const char* name, const ConstStridedTensor& t,
                   DeviceKind device) {
  const Named named{op, name, t};
  named.is_one_of({DType::Bf16, DType::F32});
  named.has_rank(4, 4, "[B, n, heads, width]");
  named.is_on(device);
  SWITCHYARD_REQUIRE(t.stride(3) == 1, ShapeMismatch, op, ": ", name,
                     " stride of the last dimension=", t.stride(3),
                     ", need 1. Make the values of a head contiguous.");
  int64_t end = dtype_bytes(t.dtype);
  for (int d = 0; d < 3; ++d) {
    SWITCHYARD_REQUIRE(t.stride(d) >= 0, ShapeMismatch, op, ": ", name, " stride=", t.stride(d),
                       ", must not be negative. Pass distances forward.");
    end = checked_add(
        end, checked_mul(checked_mul(t.stride(d), dtype_bytes(t.dtype), op), t.dim(d), op), op);
  }
}

void check_delta_state(const char* op, const StridedTensor& state, int64_t heads, int64_t value_dim,
                       int64_t key_dim, DeviceKind device) {
  const Named named{op, "state", state};
  named.is_one_of({DType::F32});
  named.has_rank(4, 4, "[num_blocks, Hv, Dv, Dk]");
  named.is_on(device);
  const Shape key_first{state.dim(0), heads, key_dim, value_dim};
  const bool strides_say =
      state.stride(2) == 1 && state.stride(3) != 1 && state.dim(2) > 1 && state.dim(3) > 1;
  SWITCHYARD_REQUIRE((key_dim == value_dim || state.shape != key_first) && !strides_say,
                     ShapeMismatch, op, ": state=", shape_text(state.shape), " with strides ",
                     state.stride(2), ", ", state.stride(3),
                     ", is key-first; need value-first [num_blocks, ", heads, ", ", value_dim, ", ",
                     key_dim, "] whose last stride is 1. Transpose the state.");
  named.has_shape({state.dim(0), heads, value_dim, key_dim});
  const int64_t head = checked_mul(value_dim, key_dim, op);
  SWITCHYARD_REQUIRE(state.stride(3) == 1 && state.stride(2) == key_dim && state.stride(1) == head,
                     ShapeMismatch, op, ": state strides=", state.stride(1), ", ", state.stride(2),
                     ", ", state.stride(3), ", need ", head, ", ", key_dim,
                     ", 1: no gaps inside a block. Copy it.");
  check_pool(named, state, checked_mul(heads, head, op));
}

}  // namespace

void check(const ConvDecode& s, int64_t max_batch, DeviceKind device) {
  constexpr const char* kOp = "conv_decode";
  const Named x{kOp, "x", s.x}, output{kOp, "output", s.output}, weight{kOp, "weight", s.weight},
      bias{kOp, "bias", s.bias};
  x.has_rank(2, 3, "[B, D] or [B, D, n]");
  x.is_one_of({DType::Bf16, DType::F32});
  x.is_on(device);
  x.is_aligned();
  const int64_t batch = s.x.dim(0), dim = s.x.dim(1);
  check_batch(kOp, batch, max_batch);
  check_tokens(kOp, s.x.shape.rank() == 2 ? 1 : s.x.dim(2));
  output.is_one_of({s.x.dtype});
  output.has_shape(s.x.shape);
  output.is_on(device);
  output.is_aligned();
  const int64_t width = check_conv_state(kOp, s.state, dim, device);
  weight.is_one_of({DType::F32});
  weight.has_shape({dim, width});
  weight.is_on(device);
  weight.is_aligned();
  if (s.bias.present()) {
    bias.is_one_of({DType::F32});
    bias.has_shape({dim});
    bias.is_on(device);
  }
  SWITCHYARD_REQUIRE(s.activation == ConvActivation::None || s.activation == ConvActivation::Silu,
                     Unsupported, kOp, ": activation=", static_cast<int>(s.activation),
                     ", need none or silu. Use one of them.");
  check_table(kOp, s.map, batch, device);
  check_lengths(kOp, s.map, batch, device);
}

void check(const ConvPrefillStates& s, int64_t max_batch, DeviceKind device) {
  constexpr const char* kOp = "conv_prefill_states";
  const Named x{kOp, "x", s.x}, starts{kOp, "starts", s.starts},
      prefix_lengths{kOp, "prefix_lengths", s.prefix_lengths};
  x.has_rank(2, 2, "[T, D]");
  x.is_one_of({DType::Bf16, DType::F32});
  x.is_on(device);
  x.is_aligned();
  SWITCHYARD_REQUIRE(s.x.dim(0) <= INT32_MAX, ShapeMismatch, kOp, ": T=", s.x.dim(0),
                     ", need at most ", INT32_MAX, " rows. Take several steps.");
  prefix_lengths.has_rank(1, 1, "[B]");
  prefix_lengths.is_one_of({DType::I32});
  prefix_lengths.is_on(device);
  const int64_t batch = s.prefix_lengths.dim(0);
  check_batch(kOp, batch, max_batch);
  starts.is_one_of({DType::I32});
  starts.has_shape({batch + 1});
  starts.is_on(device);
  check_conv_state(kOp, s.state, s.x.dim(1), device);
  check_table(kOp, s.map, batch, device);
}

void check(const DeltaRuleDecode& s, int64_t max_batch, DeviceKind device) {
  constexpr const char* kOp = "delta_rule_decode";
  check_strided(kOp, "q", s.q, device);
  check_strided(kOp, "k", s.k, device);
  check_strided(kOp, "v", s.v, device);
  const Named q{kOp, "q", s.q}, k{kOp, "k", s.k}, output{kOp, "output", s.output}, g{kOp, "g", s.g},
      beta{kOp, "beta", s.beta};
  const int64_t batch = s.v.dim(0), tokens = s.v.dim(1), value_heads = s.v.dim(2),
                value_dim = s.v.dim(3), key_heads = s.k.dim(2), key_dim = s.k.dim(3);
  check_batch(kOp, batch, max_batch);
  check_tokens(kOp, tokens);
  SWITCHYARD_REQUIRE(key_heads >= 1 && value_heads >= 1 && value_heads % key_heads == 0,
                     ShapeMismatch, kOp, ": Hv=", value_heads,
                     ", need a multiple of Hk=", key_heads,
                     ". Give each key head the same number of value heads.");
  SWITCHYARD_REQUIRE(key_dim >= 4 && key_dim <= kMaxKeyDim && key_dim % 4 == 0, Unsupported, kOp,
                     ": Dk=", key_dim, ", need a multiple of 4 up to ", kMaxKeyDim,
                     " (rows of the state are copied as 16-byte vectors). Pad the keys.");
  SWITCHYARD_REQUIRE(value_dim >= 1 && value_dim <= INT32_MAX / kMaxKeyDim, ShapeMismatch, kOp,
                     ": Dv=", value_dim, ", need 1 to ", INT32_MAX / kMaxKeyDim,
                     ". Pass the values.");
  k.has_shape({batch, tokens, key_heads, key_dim});
  q.has_shape({batch, tokens, key_heads, key_dim});
  q.is_one_of({s.v.dtype});
  k.is_one_of({s.v.dtype});
  output.is_one_of({DType::Bf16, DType::F32});
  output.has_shape(s.v.shape);
  output.is_on(device);
  g.is_one_of({DType::Bf16, DType::F32});
  g.has_shape({batch, tokens, value_heads});
  g.is_on(device);
  beta.is_one_of({DType::Bf16, DType::F32});
  if (s.beta.shape.rank() == 4)
    beta.has_shape(s.v.shape);
  else
    beta.has_shape({batch, tokens, value_heads});
  beta.is_on(device);
  check_delta_state(kOp, s.state, value_heads, value_dim, key_dim, device);
  check_table(kOp, s.map, batch, device);
  check_lengths(kOp, s.map, batch, device);
}

}  // namespace switchyard
