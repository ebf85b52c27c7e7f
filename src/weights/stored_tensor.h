// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/stored_tensor.h -- a tensor of a checkpoint as numbers, whatever its dtype and form.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "switchyard/block_scales.h"
#include "switchyard/safetensors.h"
#include "weights/checkpoint_files.h"

namespace switchyard {

// How a quantised value is written.
enum class Elements {
  E4m3,  // a byte
  E2m1,  // half a byte, the lower one first
  Int4,  // u - 8 of an unsigned half byte, the lower one first
};

// In one element of the file: a byte, or an i32 of int4.
int64_t values_per_element(Elements elements);

inline constexpr int64_t kMxGroup = 32;  // values that share a scale; OCP Microscaling Formats 1.0

// How a scale is written.
enum class ScaleBits { F32, F16, Bf16, E8m0, E4m3 };

// What quantised values are multiplied by.
struct Scales {
  const TensorEntry& entry;
  ScaleBits bits;
  ScaleBlock block;
  const TensorEntry* overall = nullptr;  // nvfp4: f32, one for the tensor
  bool overall_divides = false;          // as compressed-tensors has it
};

// Whether scales of one shape are one per block of a matrix [n, k], or of each matrix of [e, n, k].
// Other shapes that are read: [n] for the rows of [n, k], [e] for the matrices of [e, n, k], and []
// or [1] for a whole tensor.
bool scales_fit(std::span<const int64_t> scales, std::span<const int64_t> values, ScaleBlock block);
// "fp8 in 128x128 blocks", "fp8 per tensor", "mxfp8", "int4 in groups of 32", "nvfp4", ...
std::string format_text(Elements elements, ScaleBits bits, ScaleBlock block);

// A view of a file that stays open. Numbers are exact, but for a product with scales that have more bits
// than fp32: that is rounded to fp32, once.
class StoredTensor {
 public:
  // bf16, f16 or f32. Throws Error(Unsupported) that names the dtype.
  static StoredTensor plain(const TensorEntry& entry);
  // A matrix [n, k], of e4m3 also [e, n, k]; two e2m1 a byte (u8 or i8), eight int4 an i32. Throws
  // Error(Unsupported) for other dtypes, BadFile for shapes that do not fit.
  static StoredTensor scaled(Elements elements, const TensorEntry& values, const Scales& scales);
  // gpt-oss: u8 blocks [..., k / 32, 16] of e2m1 and u8 scales [..., k / 32]. Its shape is [...,
  // k].
  static StoredTensor mxfp4(const TensorEntry& blocks, const TensorEntry& scales);

  std::span<const int64_t> shape() const { return shape_; }
  // Numbers from element `first` on, in row-major order; all of them lie in the tensor.
  void read(std::span<float> dst, int64_t first) const;
  // "bf16", "f16", "f32", or as format_text says.
  std::string format() const;
  // Whether the bytes are already `dtype`, so that rows can be copied as they are.
  bool holds(DType dtype) const;
  // Bytes of a tensor that is not scaled, or of codes of e4m3, from element `first` on, as they are.
  void read_bytes(std::span<std::byte> dst, int64_t first) const;
  // Of e4m3 whose scales each count for whole rows or a multiple of 128 columns, as kernels take
  // them: the block of a scale. Absent for every other form.
  std::optional<ScaleBlock> f8_block() const;
  // With f8_block: scales of a row of blocks of one matrix, as many as dst has.
  void read_block_scales(std::span<float> dst, int64_t matrix, int64_t row_of_blocks) const;
  // e2m1 in groups of 32 along a row with scales of e8m0. Their bits, as they are: one code a byte,
  // from element `first` on, which begins a group; exponents of groups from `first` on.
  bool is_mxfp4() const;
  void read_e2m1(std::span<uint8_t> dst, int64_t first) const;
  void read_exponents(std::span<uint8_t> dst, int64_t first) const;

 private:
  enum class Kind { Bf16, F16, F32, Scaled };
  // Where a tensor's bytes are.
  struct Place {
    const FileBytes* file = nullptr;
    int64_t begin = 0;

    void read(std::span<std::byte> dst, int64_t first) const;
  };

  StoredTensor(Kind kind, const TensorEntry& entry);

  void set_scales(Elements elements, const Scales& scales);
  template <class T>
  void read_plain(std::span<float> dst, int64_t first, float (*to_float)(T)) const;
  void read_row(std::span<float> dst, int64_t row, int64_t col) const;
  void read_run(std::span<float> dst, int64_t row, int64_t col) const;
  void read_values(std::span<float> dst, int64_t first) const;
  void read_scales(std::span<float> dst, int64_t first) const;

  Kind kind_;
  Place values_, scales_;
  std::vector<int64_t> shape_;
  // Scaled: rows_ of cols_ values in each matrix, scales in row-major order of their blocks.
  Elements elements_ = Elements::E4m3;
  ScaleBits scale_bits_ = ScaleBits::F32;
  ScaleBlock block_, cut_block_;  // as it is called; not beyond the matrix
  int64_t rows_ = 1, cols_ = 1, scales_per_row_ = 0, scales_per_matrix_ = 0;
  float overall_ = 1.0f;
  bool overall_divides_ = false;
};

// ---- quantization.cc: what quantization_config says of how weights are stored

// One way of storing a matrix.
struct WeightForm {
  Elements elements;
  ScaleBlock block;
  bool is_nvfp4 = false;            // e2m1 with e4m3 scales and one for the tensor
  bool powers_of_two = false;       // scales of U8 are exponents, as those of F8_E8M0 are
  bool only_powers_of_two = false;  // mxfp8 and mxfp4
  bool operator==(const WeightForm&) const = default;
};

struct Quantization {
  std::string method;  // quant_method; empty where there is no quantization_config
  // What a tensor that is not plain may be; which one, tensors tell.
  std::vector<WeightForm> forms;
  // Why none is read, as an error's text: tensors of such a method mean what it alone knows. Empty
  // for methods that are read.
  std::string refusal;
  // The same of a part of a method that is read: plain tensors beside it are.
  std::string unread;
};

// "fp8 in 128x128 blocks or mxfp4".
std::string forms_text(const std::vector<WeightForm>& forms);

// Without quantization_config: what names, dtypes and shapes of tensors tell by themselves.
Quantization undeclared_quantization();

// From config.json: quantization_config or compression_config, at its top or in text_config. Throws
// Error(BadFile) for keys that are senseless. What is not read is no error here, since a model may
// be shown whose weights cannot be loaded.
Quantization read_quantization(const nlohmann::json& config, const std::string& file);

// ---- tensor_source.cc: a tensor by name, whatever form it is stored in

// A view of a tensor; `name` is complete: prefix, layer and expert filled in.
//
// A matrix called `w` or `m.weight` is stored plain, or with these beside or in place of it:
//
//   fp8, mxfp8     w             w_scale_inv, w_scale, m.scale
//   mxfp4          w_blocks      w_scales                         gpt-oss
//                  w             m.scale                          DeepSeek-V4
//                  w_packed      w_scale                          compressed-tensors
//   nvfp4          w             w_scale, w_scale_2               ModelOpt
//                  w_packed      w_scale, w_global_scale          compressed-tensors
//   int4           w_packed      w_scale, w_shape                 compressed-tensors
//
// Scales of activations (input_scale, activation_scale) change no weight and are not looked at.
//
// The form is what quantization_config and the tensors agree on. Throws Error(BadFile) for a missing
// tensor or shapes that do not fit, Unsupported for a form that is not read, or unclear.
StoredTensor open_tensor(const CheckpointFiles& files, const Quantization& quantization,
                         const std::string& name);
// What a matrix called w has in place of it in gpt-oss: its rows run along K whatever the family says
// of the plain tensor.
inline constexpr const char* kMxfp4Blocks = "_blocks";

}  // namespace switchyard
