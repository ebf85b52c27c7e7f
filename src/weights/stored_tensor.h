// src/weights/stored_tensor.h -- a tensor of a checkpoint as numbers, whatever its dtype.
#pragma once

#include <span>
#include <string>

#include "switchyard/safetensors.h"

namespace switchyard {

// Blocks of a block-scaled fp8 matrix, as config.json's quantization_config says.
struct ScaleBlock {
  int64_t rows = 128, cols = 128;
};

// A view; the file stays open. Values are exact in fp32 but for fp8, whose product with its scale
// is rounded to fp32 as the published code does it.
class StoredTensor {
 public:
  // bf16, f16 or f32. Throws Error(Unsupported) that names the dtype.
  static StoredTensor plain(const TensorEntry& entry);
  // fp8 (e4m3) [n, k] with f32 or bf16 scales [ceil(n / rows), ceil(k / cols)].
  static StoredTensor block_scaled(const TensorEntry& entry, const TensorEntry& scales,
                                   ScaleBlock block);
  // mxfp4: u8 blocks [..., k / 32, 16] of two values a byte, the lower nibble first, and u8 scales
  // [..., k / 32], a power of two each. Its shape is [..., k].
  static StoredTensor mxfp4(const TensorEntry& blocks, const TensorEntry& scales);

  std::span<const int64_t> shape() const { return shape_; }
  // Element i in row-major order.
  float at(int64_t i) const;
  // "bf16", "f16", "f32", "fp8 in 128x128 blocks", "mxfp4".
  std::string format() const;
  // Whether the bytes are already `dtype`, so that rows can be copied as they are.
  bool holds(DType dtype) const;
  const std::byte* bytes() const { return bytes_; }

 private:
  enum class Kind { Bf16, F16, F32, BlockScaledFp8, Mxfp4 };

  StoredTensor(Kind kind, const TensorEntry& entry);

  Kind kind_;
  const std::byte* bytes_;
  std::vector<int64_t> shape_;
  const std::byte* scales_ = nullptr;
  Kind scale_kind_ = Kind::F32;
  ScaleBlock block_;
  int64_t scale_cols_ = 0;
};

}  // namespace switchyard
