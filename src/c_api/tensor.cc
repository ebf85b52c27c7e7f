// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "c_api/tensor.h"

#include <algorithm>
#include <array>

#include "base/checked.h"

namespace switchyard::c_api {
namespace {

static_assert(SWY_BF16 == int(DType::Bf16) && SWY_F16 == int(DType::F16) &&
              SWY_F32 == int(DType::F32) && SWY_F64 == int(DType::F64) &&
              SWY_I32 == int(DType::I32) && SWY_I64 == int(DType::I64) &&
              SWY_F8_E4M3 == int(DType::F8E4m3));
static_assert(SWY_CPU == int(DeviceKind::Cpu) && SWY_CUDA == int(DeviceKind::Cuda));

Shape shape_of(const swy_tensor& t) {
  switch (t.rank) {
    case 0: return {};
    case 1: return {t.shape[0]};
    case 2: return {t.shape[0], t.shape[1]};
    case 3: return {t.shape[0], t.shape[1], t.shape[2]};
    default: return {t.shape[0], t.shape[1], t.shape[2], t.shape[3]};
  }
}

void check_memory(const char* operation, const char* name, const Tensor& t) {
  int64_t bytes = dtype_bytes(t.dtype);
  bool is_empty = false;
  for (int d = 0; d < t.shape.rank(); ++d) {
    SWITCHYARD_REQUIRE(t.dim(d) >= 0, ShapeMismatch, operation, ": ", name, ".shape[", d,
                       "]=", t.dim(d), ", must not be negative. Pass the size of the dimension.");
    is_empty |= t.dim(d) == 0;
  }
  // Every product of some of the sizes fits, too.
  for (int d = 0; d < t.shape.rank(); ++d)
    bytes = checked_mul(bytes, std::max<int64_t>(1, t.dim(d)), operation);
  SWITCHYARD_C_REQUIRE(is_empty || t.data != nullptr, operation, ": ", name, ".data=NULL, need ",
                       bytes, " bytes. Pass their address, or rank 0.");
}

Tensor view_of(const char* operation, const char* name, const swy_tensor& t) {
  const auto is_in = [&](const char* field, int64_t value, int64_t high) {
    SWITCHYARD_C_REQUIRE(value >= 0 && value <= high, operation, ": ", name, ".", field, "=", value,
                         ", need 0 to ", high, ". Make it with swy_tensor_of, or all 0: absent.");
  };
  is_in("rank", t.rank, Shape::kMaxRank);
  is_in("dtype", t.dtype, SWY_F8_E4M3);
  is_in("device", t.device, SWY_CUDA);
  for (const uint32_t word : t.reserved)
    check_reserved(operation, cat(name, ".reserved").c_str(), word);
  SWITCHYARD_C_REQUIRE(t.rank > 0 || t.data == nullptr, operation, ": ", name,
                       ".rank=0 with data, an absent tensor has none. Set rank and shape.");
  const Tensor view(t.data, static_cast<DType>(t.dtype), shape_of(t),
                    static_cast<DeviceKind>(t.device));
  if (t.rank > 0) check_memory(operation, name, view);
  return view;
}

bool says_strides(const swy_tensor& t) {
  return std::any_of(std::begin(t.strides), std::end(t.strides), [](int64_t s) { return s != 0; });
}

}  // namespace

Tensor dense(const char* operation, const char* name, const swy_tensor& t) {
  const Tensor view = view_of(operation, name, t);
  if (!says_strides(t)) return view;
  int64_t stride = 1;
  for (int d = t.rank - 1; d >= 0; --d) {
    SWITCHYARD_REQUIRE(t.strides[d] == stride || t.shape[d] <= 1, Unsupported, operation, ": ",
                       name, ".strides[", d, "]=", t.strides[d], ", need ", stride,
                       ": row-major without gaps. Copy it, or leave all strides 0.");
    stride *= t.shape[d];
  }
  return view;
}

Tensor rows_of(const char* operation, const char* name, const swy_tensor& t, int64_t& stride) {
  const Tensor view = view_of(operation, name, t);
  const bool has_gaps = says_strides(t) && t.rank == 2 && t.shape[0] > 1;
  stride = has_gaps ? t.strides[0] : 0;
  if (!has_gaps) return dense(operation, name, t);
  SWITCHYARD_REQUIRE(stride >= t.shape[1], ShapeMismatch, operation, ": ", name,
                     ".strides[0]=", stride, ", need at least the ", t.shape[1],
                     " elements of a row: rows must not overlap. Copy it.");
  SWITCHYARD_REQUIRE(t.strides[1] == 1 || t.shape[1] <= 1, Unsupported, operation, ": ", name,
                     ".strides[1]=", t.strides[1], ", need 1: rows without gaps. Copy it.");
  return view;
}

StridedTensor strided(const char* operation, const char* name, const swy_tensor& t) {
  const Tensor view = view_of(operation, name, t);
  if (!says_strides(t)) return view;
  std::array<int64_t, Shape::kMaxRank> strides{};
  std::copy_n(t.strides, t.rank, strides.begin());
  return {view, strides};
}

swy_tensor from_view(const ConstTensor& t) {
  swy_tensor out{};
  out.data = const_cast<void*>(t.data);
  out.rank = t.shape.rank();
  for (int d = 0; d < out.rank; ++d) out.shape[d] = t.shape[d];
  out.dtype = static_cast<int32_t>(t.dtype);
  out.device = static_cast<int32_t>(t.device);
  return out;
}

}  // namespace switchyard::c_api
