// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/stored_tensor.cc
#include "weights/stored_tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "base/shape_text.h"
#include "weights/file_bytes.h"

namespace switchyard {
namespace {

// Values that are read at once: with their bytes and scales they stay in the nearest cache.
constexpr size_t kRun = 2048;

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

float bf16_to_float(uint16_t bits) {
  return static_cast<float>(Bf16::from_bits(bits));
}

// 2^(bits - 127), in integers because 2^-127 is a subnormal; 255 is NaN.
float e8m0_to_float(uint8_t bits) {
  if (bits == 255) return NAN;
  return std::bit_cast<float>(bits == 0 ? uint32_t{1} << 22 : uint32_t{bits} << 23);
}

const std::array<float, 256>& e4m3_values() {
  static const auto values = [] {
    std::array<float, 256> all;
    for (size_t bits = 0; bits < 256; ++bits)
      all[bits] = static_cast<float>(F8E4m3::from_bits(static_cast<uint8_t>(bits)));
    return all;
  }();
  return values;
}

// The two values of each byte, the lower half first.
using Pairs = std::array<std::array<float, 2>, 256>;

template <class Value>
Pairs pairs_of(Value value) {
  Pairs all;
  for (unsigned byte = 0; byte < 256; ++byte) all[byte] = {value(byte & 15), value(byte >> 4)};
  return all;
}

const Pairs& pairs(Elements elements) {
  // e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
  static const Pairs e2m1 = pairs_of([](unsigned half) { return small_float(half, 2, 1, 1); });
  static const Pairs int4 = pairs_of([](unsigned half) { return static_cast<float>(half) - 8.0f; });
  return elements == Elements::E2m1 ? e2m1 : int4;
}

size_t bytes_of(ScaleBits bits) {
  switch (bits) {
    case ScaleBits::F32: return 4;
    case ScaleBits::F16:
    case ScaleBits::Bf16: return 2;
    case ScaleBits::E8m0:
    case ScaleBits::E4m3: return 1;
  }
  return 0;
}

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

float scale_of(ScaleBits bits, const std::byte* bytes) {
  switch (bits) {
    case ScaleBits::F32: return load<float>(bytes);
    case ScaleBits::F16: return f16_to_float(load<uint16_t>(bytes));
    case ScaleBits::Bf16: return bf16_to_float(load<uint16_t>(bytes));
    case ScaleBits::E8m0: return e8m0_to_float(load<uint8_t>(bytes));
    case ScaleBits::E4m3: return e4m3_values()[load<uint8_t>(bytes)];
  }
  return 0;
}

bool is_written_as(ScaleBits bits, const std::string& dtype) {
  switch (bits) {
    case ScaleBits::F32: return dtype == "F32";
    case ScaleBits::F16: return dtype == "F16";
    case ScaleBits::Bf16: return dtype == "BF16";
    case ScaleBits::E8m0: return dtype == "F8_E8M0" || dtype == "U8";
    case ScaleBits::E4m3: return dtype == "F8_E4M3";
  }
  return false;
}

void check_values(Elements elements, const TensorEntry& values) {
  const std::string& dtype = values.dtype;
  const size_t rank = values.shape.size();
  const bool good = elements == Elements::E4m3   ? dtype == "F8_E4M3" && (rank == 2 || rank == 3)
                    : elements == Elements::E2m1 ? (dtype == "U8" || dtype == "I8") && rank == 2
                                                 : dtype == "I32" && rank == 2;
  SWITCHYARD_REQUIRE(good, Unsupported, "checkpoint: tensor ", values.name, ": is ", dtype, " ",
                     shape_text(values.shape), ", need ",
                     elements == Elements::E4m3   ? "F8_E4M3 [N, K] or [E, N, K]"
                     : elements == Elements::E2m1 ? "U8 or I8 [N, K / 2]"
                                                  : "I32 [N, K / 8]",
                     ".");
}

std::string block_text(ScaleBlock block) {
  if (block.rows == ScaleBlock::kWhole) return "matrix";
  if (block.cols == ScaleBlock::kWhole) return "row";
  return block.rows == 1 ? cat(block.cols, " values of a row")
                         : cat(block.rows, " x ", block.cols, " block");
}

// One scale per block, without the number of matrices.
std::vector<int64_t> blocks_of(std::span<const int64_t> matrix, ScaleBlock block) {
  return {ceil_div(matrix[0], block.rows), ceil_div(matrix[1], block.cols)};
}

std::vector<int64_t> scales_needed(std::span<const int64_t> values, ScaleBlock block) {
  std::vector<int64_t> needed(values.begin(), values.end() - 2);
  for (const int64_t blocks : blocks_of(values.last(2), block)) needed.push_back(blocks);
  return needed;
}

void check_scales(std::span<const int64_t> shape, const std::string& name, const Scales& scales) {
  const TensorEntry& entry = scales.entry;
  SWITCHYARD_REQUIRE(is_written_as(scales.bits, entry.dtype), Unsupported, "checkpoint: tensor ",
                     entry.name, ": dtype=", entry.dtype, ", scales of ", name,
                     " are of another one.");
  SWITCHYARD_REQUIRE(scales_fit(entry.shape, shape, scales.block), BadFile, "checkpoint: tensor ",
                     entry.name, " has shape ", shape_text(entry.shape), ", need ",
                     shape_text(scales_needed(shape, scales.block)), ": a scale for each ",
                     block_text(scales.block), " of ", name, " ", shape_text(shape), ".");
}

float overall_scale(const TensorEntry& entry) {
  const bool is_one = entry.shape.empty() || entry.shape == std::vector<int64_t>{1};
  SWITCHYARD_REQUIRE(entry.dtype == "F32" && is_one, Unsupported, "checkpoint: tensor ", entry.name,
                     ": is ", entry.dtype, " ", shape_text(entry.shape),
                     ", need F32 [] or [1]: one for the whole tensor.");
  float value = 0;
  entry.read(std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

}  // namespace

int64_t values_per_element(Elements elements) {
  return elements == Elements::E4m3 ? 1 : elements == Elements::E2m1 ? 2 : 8;
}

bool scales_fit(std::span<const int64_t> scales, std::span<const int64_t> values,
                ScaleBlock block) {
  const auto needed = scales_needed(values, block);
  if (std::ranges::equal(scales, needed)) return true;
  const bool is_one = std::ranges::all_of(scales, [](int64_t n) { return n == 1; });
  if (block.rows == ScaleBlock::kWhole)  // one for all, or [e]
    return scales.size() < 2 &&
           (is_one || (values.size() == 3 && std::ranges::equal(scales, values.first(1))));
  const bool is_row_of_rows = block.cols == ScaleBlock::kWhole && values.size() == 2;
  return is_row_of_rows && block.rows == 1 && std::ranges::equal(scales, values.first(1));
}

std::string format_text(Elements elements, ScaleBits bits, ScaleBlock block) {
  const bool is_mx = bits == ScaleBits::E8m0 && block == ScaleBlock{1, kMxGroup};
  if (elements == Elements::E4m3 && is_mx) return "mxfp8";
  if (elements == Elements::E2m1) return bits == ScaleBits::E4m3 ? "nvfp4" : "mxfp4";
  const char* name = elements == Elements::E4m3 ? "fp8" : "int4";
  if (block.rows == ScaleBlock::kWhole) return cat(name, " per tensor");
  if (block.cols == ScaleBlock::kWhole) return cat(name, " per channel");
  if (elements == Elements::Int4) return cat(name, " in groups of ", block.cols);
  return cat(name, " in ", block.rows, "x", block.cols, " blocks");
}

StoredTensor::StoredTensor(Kind kind, const TensorEntry& entry)
    : kind_(kind), values_{entry.file, entry.begin}, shape_(entry.shape) {}

void StoredTensor::Place::read(std::span<std::byte> dst, int64_t first) const {
  file->read(dst, begin + first);
}

StoredTensor StoredTensor::plain(const TensorEntry& entry) {
  if (entry.dtype == "BF16") return {Kind::Bf16, entry};
  if (entry.dtype == "F16") return {Kind::F16, entry};
  SWITCHYARD_REQUIRE(entry.dtype == "F32", Unsupported, "checkpoint: tensor ", entry.name,
                     ": dtype=", entry.dtype,
                     ", is read in no form without scales; BF16, F16 and F32 are. "
                     "docs/guide/checkpoints.md lists the quantised forms.");
  return {Kind::F32, entry};
}

StoredTensor StoredTensor::scaled(Elements elements, const TensorEntry& values,
                                  const Scales& scales) {
  check_values(elements, values);
  StoredTensor t(Kind::Scaled, values);
  int64_t& k = t.shape_.back();
  k = checked_mul(k, values_per_element(elements), "checkpoint: values of a row");
  const int64_t group = scales.block.cols;
  SWITCHYARD_REQUIRE(elements == Elements::E4m3 || group == ScaleBlock::kWhole || k % group == 0,
                     BadFile, "checkpoint: tensor ", values.name, ": values of a row=", k,
                     ", need a multiple of the group of ", group, ".");
  check_scales(t.shape_, values.name, scales);
  t.set_scales(elements, scales);
  return t;
}

StoredTensor StoredTensor::mxfp4(const TensorEntry& blocks, const TensorEntry& scales) {
  std::vector<int64_t> expected = blocks.shape;
  const bool packed = expected.size() >= 2 && expected.back() == kMxGroup / 2;
  if (packed) expected.pop_back();
  SWITCHYARD_REQUIRE(packed && blocks.dtype == "U8" && scales.dtype == "U8", Unsupported,
                     "checkpoint: tensor ", blocks.name, ": is ", blocks.dtype, " ",
                     shape_text(blocks.shape), " with scales of ", scales.dtype,
                     ", MXFP4 is U8 [..., 16] with U8 scales.");
  SWITCHYARD_REQUIRE(scales.shape == expected, BadFile, "checkpoint: tensor ", scales.name,
                     " has shape ", shape_text(scales.shape), ", need a scale for each block of ",
                     blocks.name, " ", shape_text(blocks.shape), ".");
  StoredTensor t(Kind::Scaled, blocks);
  t.shape_ = std::move(expected);
  t.shape_.back() = checked_mul(t.shape_.back(), kMxGroup, "checkpoint: mxfp4");
  t.set_scales(Elements::E2m1, {scales, ScaleBits::E8m0, {1, kMxGroup}});
  return t;
}

// Shapes have been checked: nothing that is computed here leads out of the files.
void StoredTensor::set_scales(Elements elements, const Scales& scales) {
  elements_ = elements;
  scales_ = {scales.entry.file, scales.entry.begin};
  scale_bits_ = scales.bits;
  block_ = scales.block;
  cols_ = shape_.back();
  rows_ = shape_.size() == 1 ? 1 : shape_[shape_.size() - 2];
  cut_block_ = {std::clamp<int64_t>(block_.rows, 1, std::max<int64_t>(rows_, 1)),
                std::clamp<int64_t>(block_.cols, 1, std::max<int64_t>(cols_, 1))};
  scales_per_row_ = ceil_div(cols_, cut_block_.cols);
  const bool one_for_all =
      block_.rows == ScaleBlock::kWhole &&
      std::ranges::all_of(scales.entry.shape, [](int64_t n) { return n == 1; });
  scales_per_matrix_ = one_for_all ? 0 : ceil_div(rows_, cut_block_.rows) * scales_per_row_;
  if (scales.overall != nullptr) overall_ = overall_scale(*scales.overall);
  overall_divides_ = scales.overall_divides;
}

std::string StoredTensor::format() const {
  switch (kind_) {
    case Kind::Bf16: return "bf16";
    case Kind::F16: return "f16";
    case Kind::F32: return "f32";
    case Kind::Scaled: return format_text(elements_, scale_bits_, block_);
  }
  return "";
}

bool StoredTensor::holds(DType dtype) const {
  return (kind_ == Kind::Bf16 && dtype == DType::Bf16) ||
         (kind_ == Kind::F32 && dtype == DType::F32) ||
         (f8_block().has_value() && dtype == DType::F8E4m3);
}

std::optional<ScaleBlock> StoredTensor::f8_block() const {
  const bool fits = block_.cols == ScaleBlock::kWhole || block_.cols % kQuantGroup == 0;
  if (kind_ != Kind::Scaled || elements_ != Elements::E4m3 || !fits) return {};
  return block_;
}

void StoredTensor::read_block_scales(std::span<float> dst, int64_t matrix,
                                     int64_t row_of_blocks) const {
  const int64_t first = matrix * scales_per_matrix_ + row_of_blocks * scales_per_row_;
  for (size_t done = 0; done < dst.size(); done += kRun)
    read_scales(dst.subspan(done, std::min(kRun, dst.size() - done)),
                first + static_cast<int64_t>(done));
}

bool StoredTensor::is_mxfp4() const {
  return kind_ == Kind::Scaled && elements_ == Elements::E2m1 && scale_bits_ == ScaleBits::E8m0;
}

void StoredTensor::read_e2m1(std::span<uint8_t> dst, int64_t first) const {
  std::array<uint8_t, kRun / 2> run;
  for (size_t done = 0; done < dst.size(); done += kRun) {
    const auto part = dst.subspan(done, std::min(kRun, dst.size() - done));
    const auto bytes = std::span(run).first(part.size() / 2);
    values_.read(std::as_writable_bytes(bytes), (first + static_cast<int64_t>(done)) / 2);
    for (size_t i = 0; i < part.size(); ++i)
      part[i] = static_cast<uint8_t>(i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4);
  }
}

void StoredTensor::read_exponents(std::span<uint8_t> dst, int64_t first) const {
  scales_.read(std::as_writable_bytes(dst), first);
}

void StoredTensor::read_bytes(std::span<std::byte> dst, int64_t first) const {
  values_.read(dst, first * (kind_ == Kind::F32 ? 4 : kind_ == Kind::Scaled ? 1 : 2));
}

void StoredTensor::read(std::span<float> dst, int64_t first) const {
  switch (kind_) {
    case Kind::Bf16: return read_plain<uint16_t>(dst, first, bf16_to_float);
    case Kind::F16: return read_plain<uint16_t>(dst, first, f16_to_float);
    case Kind::F32: return read_bytes(std::as_writable_bytes(dst), first);
    case Kind::Scaled: break;
  }
  if (dst.empty()) return;
  int64_t col = first % cols_;
  for (int64_t row = first / cols_; !dst.empty(); ++row, col = 0) {
    const auto n = std::min(dst.size(), static_cast<size_t>(cols_ - col));
    read_row(dst.first(n), row, col);
    dst = dst.subspan(n);
  }
}

template <class T>
void StoredTensor::read_plain(std::span<float> dst, int64_t first, float (*to_float)(T)) const {
  std::array<T, kRun> run;
  for (size_t done = 0; done < dst.size(); done += run.size()) {
    const auto part = std::span(run).first(std::min(run.size(), dst.size() - done));
    read_bytes(std::as_writable_bytes(part), first + static_cast<int64_t>(done));
    std::ranges::transform(part, dst.begin() + static_cast<int64_t>(done), to_float);
  }
}

// Part of a row.
void StoredTensor::read_row(std::span<float> dst, int64_t row, int64_t col) const {
  for (size_t done = 0; done < dst.size(); done += kRun)
    read_run(dst.subspan(done, std::min(kRun, dst.size() - done)), row,
             col + static_cast<int64_t>(done));
  // After the scale: e2m1 * e4m3 is exact, so that the product is rounded once.
  if (overall_divides_)
    for (float& value : dst) value /= overall_;
  else if (overall_ != 1.0f)
    for (float& value : dst) value *= overall_;
}

// At most kRun values of a row, times the scale of the block of each.
void StoredTensor::read_run(std::span<float> dst, int64_t row, int64_t col) const {
  read_values(dst, row * cols_ + col);
  const int64_t in_row =
      row / rows_ * scales_per_matrix_ + row % rows_ / cut_block_.rows * scales_per_row_;
  const int64_t end = col + static_cast<int64_t>(dst.size());
  const int64_t first = col / cut_block_.cols, last = (end - 1) / cut_block_.cols;
  std::array<float, kRun> scales;
  read_scales(std::span(scales).first(static_cast<size_t>(last - first + 1)), in_row + first);
  for (int64_t at = col; at < end;) {
    const int64_t block = at / cut_block_.cols;
    const int64_t block_end = std::min(end, (block + 1) * cut_block_.cols);
    const float scale = scales[static_cast<size_t>(block - first)];
    for (; at < block_end; ++at) dst[static_cast<size_t>(at - col)] *= scale;
  }
}

// Without scales.
void StoredTensor::read_values(std::span<float> dst, int64_t first) const {
  std::array<uint8_t, kRun> run;
  const auto count = static_cast<int64_t>(dst.size());
  const int64_t per_byte = elements_ == Elements::E4m3 ? 1 : 2, begin = first / per_byte;
  const auto bytes =
      std::span(run).first(static_cast<size_t>((first + count - 1) / per_byte - begin + 1));
  values_.read(std::as_writable_bytes(bytes), begin);
  float* out = dst.data();
  if (per_byte == 1) {
    const auto& values = e4m3_values();
    for (int64_t i = 0; i < count; ++i) out[i] = values[bytes[i]];
    return;
  }
  const Pairs& two = pairs(elements_);
  const int64_t skipped = first % 2;  // an odd value is the upper half of the first byte
  for (int64_t i = 0; i < count; ++i) out[i] = two[bytes[(skipped + i) / 2]][(skipped + i) % 2];
}

void StoredTensor::read_scales(std::span<float> dst, int64_t first) const {
  std::array<std::byte, kRun * sizeof(float)> run;
  const size_t each = bytes_of(scale_bits_);
  const auto bytes = std::span(run).first(dst.size() * each);
  scales_.read(bytes, first * static_cast<int64_t>(each));
  for (size_t i = 0; i < dst.size(); ++i) dst[i] = scale_of(scale_bits_, bytes.data() + i * each);
}

}  // namespace switchyard
