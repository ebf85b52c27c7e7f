// src/weights/stored_tensor.cc
#include "weights/stored_tensor.h"

#include <array>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "base/shape_text.h"

namespace switchyard {
namespace {

constexpr int64_t kMxBlock = 32;  // values that share a scale; OCP Microscaling Formats 1.0

template <class T>
T load(const std::byte* bytes, int64_t i) {  // a file's bytes stand anywhere
  T value;
  std::memcpy(&value, bytes + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

// Sign, `exponent` bits, `mantissa` bits, with subnormals; what the largest exponent means differs
// by format and is not decided here.
float small_float(unsigned bits, int exponent, int mantissa, int bias) {
  const int e = static_cast<int>(bits >> mantissa) & ((1 << exponent) - 1);
  const auto m = static_cast<float>(bits & ((1u << mantissa) - 1));
  const float sign = bits >> (exponent + mantissa) & 1 ? -1.0f : 1.0f;
  const float one = static_cast<float>(1 << mantissa);
  return sign * (e == 0 ? std::ldexp(m / one, 1 - bias) : std::ldexp(1 + m / one, e - bias));
}

float f16_to_float(uint16_t bits) {
  if ((bits & 0x7c00) != 0x7c00) return small_float(bits, 5, 10, 15);
  return (bits & 0x3ff) != 0 ? NAN : bits & 0x8000 ? -INFINITY : INFINITY;
}

// e4m3 without infinities: 0x7f and 0xff are NaN, 0x7e is 448.
const std::array<float, 256>& fp8_values() {
  static const auto values = [] {
    std::array<float, 256> all;
    for (unsigned bits = 0; bits < 256; ++bits)
      all[bits] = (bits & 0x7f) == 0x7f ? NAN : small_float(bits, 4, 3, 7);
    return all;
  }();
  return values;
}

// e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
const std::array<float, 16>& fp4_values() {
  static const auto values = [] {
    std::array<float, 16> all;
    for (unsigned bits = 0; bits < 16; ++bits) all[bits] = small_float(bits, 2, 1, 1);
    return all;
  }();
  return values;
}

}  // namespace

StoredTensor::StoredTensor(Kind kind, const TensorEntry& entry)
    : kind_(kind), bytes_(entry.bytes.data()), shape_(entry.shape) {}

StoredTensor StoredTensor::plain(const TensorEntry& entry) {
  if (entry.dtype == "BF16") return {Kind::Bf16, entry};
  if (entry.dtype == "F16") return {Kind::F16, entry};
  SWITCHYARD_REQUIRE(entry.dtype == "F32", Unsupported, "checkpoint: tensor ", entry.name,
                     ": dtype=", entry.dtype,
                     ", load BF16, F16, F32, block-scaled F8_E4M3 (with weight_scale_inv) or MXFP4 "
                     "(blocks and scales).");
  return {Kind::F32, entry};
}

StoredTensor StoredTensor::block_scaled(const TensorEntry& entry, const TensorEntry& scales,
                                        ScaleBlock block) {
  SWITCHYARD_REQUIRE(entry.shape.size() == 2 && entry.dtype == "F8_E4M3", Unsupported,
                     "checkpoint: tensor ", entry.name, ": is ", entry.dtype, " ",
                     shape_text(entry.shape), ", only matrices of F8_E4M3 are block-scaled.");
  const int64_t rows = ceil_div(entry.shape[0], block.rows),
                cols = ceil_div(entry.shape[1], block.cols);
  SWITCHYARD_REQUIRE(scales.shape == std::vector<int64_t>({rows, cols}), BadFile,
                     "checkpoint: tensor ", scales.name, " has shape ", shape_text(scales.shape),
                     ", need [", rows, ", ", cols, "]: a scale for each ", block.rows, " x ",
                     block.cols, " block of ", entry.name, ".");
  SWITCHYARD_REQUIRE(scales.dtype == "F32" || scales.dtype == "BF16", Unsupported,
                     "checkpoint: tensor ", scales.name, ": dtype=", scales.dtype,
                     ", scales are F32 or BF16.");
  StoredTensor t(Kind::BlockScaledFp8, entry);
  t.scales_ = scales.bytes.data();
  t.scale_kind_ = scales.dtype == "F32" ? Kind::F32 : Kind::Bf16;
  t.block_ = block;
  t.scale_cols_ = cols;
  return t;
}

StoredTensor StoredTensor::mxfp4(const TensorEntry& blocks, const TensorEntry& scales) {
  std::vector<int64_t> expected = blocks.shape;
  const bool packed = expected.size() >= 2 && expected.back() == kMxBlock / 2;
  if (packed) expected.pop_back();
  SWITCHYARD_REQUIRE(packed && blocks.dtype == "U8" && scales.dtype == "U8", Unsupported,
                     "checkpoint: tensor ", blocks.name, ": is ", blocks.dtype, " ",
                     shape_text(blocks.shape), " with scales of ", scales.dtype,
                     ", MXFP4 is U8 [..., 16] with U8 scales.");
  SWITCHYARD_REQUIRE(scales.shape == expected, BadFile, "checkpoint: tensor ", scales.name,
                     " has shape ", shape_text(scales.shape), ", need a scale for each block of ",
                     blocks.name, " ", shape_text(blocks.shape), ".");
  StoredTensor t(Kind::Mxfp4, blocks);
  t.scales_ = scales.bytes.data();
  t.shape_ = std::move(expected);
  t.shape_.back() = checked_mul(t.shape_.back(), kMxBlock, "checkpoint: mxfp4");
  return t;
}

std::string StoredTensor::format() const {
  switch (kind_) {
    case Kind::Bf16: return "bf16";
    case Kind::F16: return "f16";
    case Kind::F32: return "f32";
    case Kind::BlockScaledFp8: return cat("fp8 in ", block_.rows, "x", block_.cols, " blocks");
    case Kind::Mxfp4: return "mxfp4";
  }
  return "";
}

bool StoredTensor::holds(DType dtype) const {
  return (kind_ == Kind::Bf16 && dtype == DType::Bf16) ||
         (kind_ == Kind::F32 && dtype == DType::F32);
}

float StoredTensor::at(int64_t i) const {
  switch (kind_) {
    case Kind::Bf16: return static_cast<float>(Bf16::from_bits(load<uint16_t>(bytes_, i)));
    case Kind::F16: return f16_to_float(load<uint16_t>(bytes_, i));
    case Kind::F32: return load<float>(bytes_, i);
    case Kind::BlockScaledFp8: {
      const int64_t row = i / shape_[1] / block_.rows, col = i % shape_[1] / block_.cols;
      const int64_t block = row * scale_cols_ + col;
      const float scale = scale_kind_ == Kind::F32
                              ? load<float>(scales_, block)
                              : static_cast<float>(Bf16::from_bits(load<uint16_t>(scales_, block)));
      return fp8_values()[load<uint8_t>(bytes_, i)] * scale;
    }
    case Kind::Mxfp4: {
      const auto pair = load<uint8_t>(bytes_, i / 2);
      const auto exponent = load<uint8_t>(scales_, i / kMxBlock);
      if (exponent == 255) return NAN;
      return std::ldexp(fp4_values()[i % 2 ? pair >> 4 : pair & 15], exponent - 127);
    }
  }
  return 0;
}

}  // namespace switchyard
