// src/weights/quantization.h -- what quantization_config says of how weights are stored.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "weights/stored_tensor.h"

namespace switchyard {

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

}  // namespace switchyard
