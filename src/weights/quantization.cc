// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/quantization.cc
#include "weights/stored_tensor.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/require.h"
#include "weights/json_file.h"

namespace switchyard {
namespace {

using Json = nlohmann::json;

constexpr int64_t kWhole = ScaleBlock::kWhole;
constexpr ScaleBlock kPerTensor{kWhole, kWhole}, kPerChannel{1, kWhole}, kMxGroup{1, 32},
    kNvfp4Group{1, 16};

constexpr WeightForm fp8(ScaleBlock block, bool powers_of_two = false) {
  return {Elements::E4m3, block, false, powers_of_two || block == kMxGroup, false};
}
constexpr WeightForm kMxfp8{Elements::E4m3, kMxGroup, false, true, true};
constexpr WeightForm kMxfp4{Elements::E2m1, kMxGroup, false, true, true};
// Where nothing but the scales' dtype says that they are exponents.
constexpr WeightForm kMxfp4OfE8m0{Elements::E2m1, kMxGroup, false, false, true};
constexpr WeightForm kNvfp4{Elements::E2m1, kNvfp4Group, true, false, false};

// What a user reads of a form that is not known.
std::string refusal_of(const std::string& key, const std::string& value) {
  return cat("checkpoint: quantization_config: ", key, "=", value,
             ", is not read; known are fp8, compressed-tensors (float-quantized, pack-quantized "
             "int4 symmetric, mxfp4-pack-quantized, nvfp4-pack-quantized), modelopt (FP8, NVFP4), "
             "mxfp4, mxfp8. Convert the checkpoint or use its bf16 form.");
}

// A JSON value in a message.
std::string shown(const Json& value) {
  return value.is_string() ? value.get<std::string>().substr(0, 60) : value.dump().substr(0, 60);
}

const Json* find(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

const Json* find_object(const Json& object, const char* key, const std::string& file) {
  const Json* value = find(object, key);
  SWITCHYARD_REQUIRE(value == nullptr || value->is_object(), BadFile, "checkpoint: ", file, ", ",
                     key, "=", shown(*value), ", need an object.");
  return value;
}

ScaleBlock block_from(const std::vector<int64_t>& size, const char* key) {
  SWITCHYARD_REQUIRE(size.size() == 2 && std::min(size[0], size[1]) >= 1, BadFile,
                     "checkpoint: ", key, " has ", size.size(), " entries, the first ",
                     size.empty() ? 0 : size[0], ", need two positive ones.");
  return {size[0], size[1]};
}

// One quantization_config.
class Reader {
 public:
  Reader(const Json& object, const std::string& file)
      : object_(object), file_(file), keys_(object, file) {}

  // `experts` is DeepSeek-V4's expert_dtype; empty where the config has none.
  Quantization read(const std::string& experts) {
    result_.method = method();
    if (result_.method == "fp8")
      read_fp8(experts);
    else if (result_.method == "compressed-tensors")
      read_compressed_tensors();
    else if (result_.method == "modelopt")
      read_modelopt();
    else if (result_.method == "mxfp4")
      result_.forms = {kMxfp4};
    else if (result_.method == "mxfp8")
      read_mxfp8();
    else if (result_.method == "nvfp4" || result_.method == "modelopt_fp4")
      result_.forms = {kNvfp4};
    else
      result_.refusal = refusal_of("quant_method", result_.method);
    return std::move(result_);
  }

 private:
  std::string method() const {
    const char* fallback = find(object_, "quant_algo")      ? "modelopt"
                           : find(object_, "config_groups") ? "compressed-tensors"
                                                            : "nothing";
    return keys_.text_or({"quant_method"}, fallback);
  }

  void leave(const std::string& key, const std::string& value) {
    if (result_.unread.empty()) result_.unread = refusal_of(key, value);
  }

  void add(const WeightForm& form) {
    if (std::ranges::find(result_.forms, form) == result_.forms.end())
      result_.forms.push_back(form);
  }

  // As transformers has it: without the key 128 x 128, with null one scale for the tensor.
  // AutoFP8 leaves the key out and has one scale, too; the scale's shape tells.
  void read_fp8(const std::string& experts) {
    const std::string fmt = keys_.text_or({"fmt"}, "e4m3");
    if (fmt != "e4m3" && fmt != "float8_e4m3fn") return leave("fmt", fmt);
    const bool powers = keys_.text_or({"scale_fmt"}, "") == "ue8m0";
    if (find(object_, "weight_block_size"))
      result_.forms = {fp8(block_of("weight_block_size"), powers)};
    else if (object_.contains("weight_block_size"))
      result_.forms = {fp8(kPerTensor, powers), fp8(kPerChannel, powers)};
    else
      result_.forms = {fp8(ScaleBlock{}, powers), fp8(kPerTensor, powers),
                       fp8(kPerChannel, powers)};
    if (experts.empty() || experts == "fp4") add(kMxfp4OfE8m0);
  }

  void read_mxfp8() {
    if (find(object_, "weight_block_size") && block_of("weight_block_size") != kMxGroup)
      return leave("weight_block_size", shown(*find(object_, "weight_block_size")));
    result_.forms = {kMxfp8};
  }

  ScaleBlock block_of(const char* key) const {
    return block_from(keys_.integers_or_none({key}), key);
  }

  // ---- ModelOpt

  void read_modelopt() {
    const Json* nested = find_object(object_, "quantization", file_);
    const ConfigReader keys(nested ? *nested : object_, file_);
    const std::string algorithm = keys.text_or({"quant_algo"}, "nothing");
    if (algorithm != "MIXED_PRECISION") return add_modelopt(algorithm);
    const Json* layers = find_object(nested ? *nested : object_, "quantized_layers", file_);
    std::set<std::string> seen;
    for (const Json& layer : layers ? *layers : Json::object()) {
      SWITCHYARD_REQUIRE(layer.is_object(), BadFile, "checkpoint: ", file_,
                         ", quantized_layers holds ", shown(layer), ", need objects.");
      seen.insert(ConfigReader(layer, file_).text_or({"quant_algo"}, "nothing"));
    }
    for (const auto& one : seen) add_modelopt(one);
    if (seen.empty()) leave("quant_algo", algorithm);
  }

  void add_modelopt(const std::string& algorithm) {
    static const std::map<std::string_view, WeightForm> known = {
        {"FP8", fp8(kPerTensor)},
        {"FP8_PER_CHANNEL_PER_TOKEN", fp8(kPerChannel)},
        {"MXFP8", kMxfp8},
        {"NVFP4", kNvfp4}};
    const auto form = known.find(algorithm);
    form == known.end() ? leave("quant_algo", algorithm) : add(form->second);
  }

  // ---- compressed-tensors

  void read_compressed_tensors() {
    if (const Json* sparsity = find_object(object_, "sparsity_config", file_))
      if (const auto format = ConfigReader(*sparsity, file_).text_or({"format"}, "dense");
          format != "dense")
        result_.refusal = refusal_of("sparsity_config.format", format);
    // Weights of a rotated space.
    if (const Json* transform = find_object(object_, "transform_config", file_))
      if (const Json* groups = find(*transform, "config_groups"); groups && !groups->empty())
        result_.refusal = refusal_of("transform_config", shown(*transform));
    const Json* groups = find_object(object_, "config_groups", file_);
    if (groups == nullptr) return leave("config_groups", "nothing");
    for (const auto& [name, group] : groups->items()) {
      SWITCHYARD_REQUIRE(group.is_object(), BadFile, "checkpoint: ", file_, ", config_groups.",
                         name, "=", shown(group), ", need an object.");
      const Json* weights = find_object(group, "weights", file_);
      const std::string format =
          ConfigReader(group, file_).text_or({"format"}, keys_.text_or({"format"}, "nothing"));
      if (weights != nullptr && format != "dense") add_group(*weights, format);
    }
  }

  void add_group(const Json& weights, const std::string& format) {
    const ConfigReader keys(weights, file_);
    if (!keys.boolean_or({"symmetric"}, true)) return leave("symmetric", "false");
    if (const Json* order = find(weights, "actorder"); order && reorders(*order))
      return leave("actorder", shown(*order));
    const int64_t bits = keys.integer({"num_bits"});
    const std::string type = keys.text_or({"type"}, "int");
    if (format == "mxfp4-pack-quantized" || format == "nvfp4-pack-quantized")
      return add_float4(keys, format);
    const bool is_int4 = format == "pack-quantized";
    if (!is_int4 && format != "float-quantized" && format != "naive-quantized" &&
        format != "mxfp8-quantized")
      return leave("format", format);
    if (type != (is_int4 ? "int" : "float") || bits != (is_int4 ? 4 : 8))
      return leave("format", cat(format, " of ", bits, "-bit ", type));
    add_scaled(keys, format, is_int4);
  }

  // Whether a tensor of indices reorders the columns.
  static bool reorders(const Json& order) {
    return order != false && order != "weight" && order != "static";
  }

  void add_scaled(const ConfigReader& keys, const std::string& format, bool is_int4) {
    const std::string strategy = keys.text({"strategy"});
    if (format == "mxfp8-quantized") {
      const int64_t group = keys.integer_or({"group_size"}, 32);
      return group == 32 ? add(kMxfp8) : leave("group_size", cat(group));
    }
    const auto add_blocks = [&](ScaleBlock block) {
      add(is_int4 ? WeightForm{Elements::Int4, block} : fp8(block));
    };
    if (strategy == "channel")
      add_blocks(kPerChannel);
    else if (strategy == "group")
      add_blocks(block_from({1, keys.integer({"group_size"})}, "group_size"));
    else if (strategy == "tensor" && !is_int4)
      add_blocks(kPerTensor);
    else if (strategy == "block" && !is_int4)
      add_blocks(block_structure(keys));
    else
      leave("strategy", strategy);
  }

  // [128, 128], or "128x128" of older ones.
  static ScaleBlock block_structure(const ConfigReader& keys) {
    const Json* value = find(keys.json(), "block_structure");
    if (value == nullptr || !value->is_string())
      return block_from(keys.integers_or_none({"block_structure"}), "block_structure");
    const auto& text = value->get_ref<const std::string&>();
    const size_t by = text.find('x');
    return block_from({number_from(text.substr(0, by)),
                       by == std::string::npos ? 0 : number_from(text.substr(by + 1))},
                      "block_structure");
  }

  // 0 for what is no number of up to nine digits.
  static int64_t number_from(const std::string& text) {
    const bool good = !text.empty() && text.size() <= 9 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
    return good ? std::stoll(text) : 0;
  }

  void add_float4(const ConfigReader& keys, const std::string& format) {
    const WeightForm form = format == "nvfp4-pack-quantized" ? kNvfp4 : kMxfp4;
    const int64_t group = keys.integer_or({"group_size"}, form.block.cols);
    if (group != form.block.cols) return leave("group_size", cat(group, " of ", format));
    const std::string type = keys.text_or({"type"}, "float");
    if (type != "float") return leave("type", cat(type, " of ", format));
    add(form);
  }

  const Json& object_;
  const std::string& file_;
  const ConfigReader keys_;
  Quantization result_;
};

// What a model's config and the text model nested in it say; the same, or they contradict.
struct Declared {
  const Json* quantization = nullptr;
  std::string contradiction;  // a key that says something else
  std::string experts;        // expert_dtype
};

void add_declared(Declared& all, const Json& config, const std::string& where,
                  const std::string& file) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* here = find_object(config, key, file);
    if (here == nullptr || here->empty()) continue;
    if (all.quantization == nullptr) all.quantization = here;
    if (*here != *all.quantization) all.contradiction = where + key;
  }
  if (all.experts.empty()) all.experts = ConfigReader(config, file).text_or({"expert_dtype"}, "");
}

}  // namespace

std::string forms_text(const std::vector<WeightForm>& forms) {
  std::vector<std::string> texts;
  for (const WeightForm& f : forms) {
    const ScaleBits bits = f.is_nvfp4             ? ScaleBits::E4m3
                           : f.only_powers_of_two ? ScaleBits::E8m0
                                                  : ScaleBits::F32;
    texts.push_back(format_text(f.elements, bits, f.block));
  }
  return texts.empty() ? "no quantised weights" : joined(texts, " or ");
}

Quantization undeclared_quantization() {
  return {"", {fp8(ScaleBlock{}), fp8(kPerTensor), fp8(kPerChannel), kMxfp4OfE8m0, kNvfp4}, "", ""};
}

Quantization read_quantization(const Json& config, const std::string& file) {
  Declared declared;
  add_declared(declared, config, "", file);
  if (const Json* text = find_object(config, "text_config", file))
    add_declared(declared, *text, "text_config.", file);
  if (declared.quantization == nullptr) return undeclared_quantization();
  Quantization q = Reader(*declared.quantization, file).read(declared.experts);
  if (!declared.contradiction.empty() && q.refusal.empty())
    q.refusal = cat("checkpoint: quantization_config: quant_method=", q.method, ", ",
                    declared.contradiction,
                    " says something else. Remove the one that does not fit the weights.");
  return q;
}

}  // namespace switchyard
