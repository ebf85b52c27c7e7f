// src/weights/tensor_source.h -- a tensor of a checkpoint by name, whatever form it is stored in.
#pragma once

#include <string>

#include "weights/checkpoint_files.h"
#include "weights/quantization.h"
#include "weights/stored_tensor.h"

namespace switchyard {

// A view of files and of what config.json says of them; both stay. Names are complete: prefix,
// layer and expert filled in.
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
class TensorSource {
 public:
  TensorSource(const CheckpointFiles& files, const Quantization& quantization)
      : files_(files), quantization_(quantization) {}

  // Under its own name: plain or fp8.
  bool has(const std::string& name) const { return files_.has(name); }
  // Only as `<name>_blocks`, whose rows run along K whatever the family says of the plain tensor.
  bool has_mxfp4(const std::string& name) const;
  // Its number of dimensions; 0 when there is no such tensor.
  size_t rank_of(const std::string& name) const;
  // In the form that quantization_config and the tensors agree on. Throws Error(BadFile) for a
  // missing tensor or shapes that do not fit, Unsupported for a form that is not read, or unclear.
  StoredTensor open(const std::string& name) const;

 private:
  struct Parts;

  Parts parts_of(const std::string& name) const;
  const TensorEntry* one_of(std::initializer_list<std::string> names) const;
  void refuse_foreign(const std::string& name, const std::string& module) const;
  StoredTensor open_scaled(const Parts& parts) const;
  void check_shape_of(const Parts& parts, const StoredTensor& matrix) const;
  WeightForm form_of(const Parts& parts, Elements elements, bool is_nvfp4) const;
  [[noreturn]] void refuse(const Parts& parts, const std::string& what) const;

  const CheckpointFiles& files_;
  const Quantization& quantization_;
};

}  // namespace switchyard
