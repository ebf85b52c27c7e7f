// src/weights/model_config.cc
#include "weights/model_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/require.h"
#include "switchyard/checkpoint.h"
#include "weights/config_reader.h"

namespace switchyard {
namespace {

std::string family_list() {
  std::string list;
  for (const auto& name : known_families()) list += cat(list.empty() ? "" : ", ", name);
  return list;
}

// "qwen3_moe", or "qwen3_moe_text" of a nested config.
const Family* find_family(std::string_view model_type) {
  constexpr std::string_view kText = "_text";
  if (model_type.ends_with(kText)) model_type.remove_suffix(kText.size());
  for (const auto& family : families())
    if (family.model_type == model_type) return &family;
  return nullptr;
}

// The rules of every layer, and the file that breaks one.
void validate_from_file(const MoeConfig& config, const std::string& path) {
  try {
    validate(config);
  } catch (const Error& e) {
    throw Error(e.code(), cat("checkpoint: ", path, ", ", e.what()));
  }
}

ModelConfig checked(std::string family, FamilyLayers layers, const std::string& path) {
  for (const int64_t layer : layers.moe_layers)
    SWITCHYARD_REQUIRE(layer >= 0 && layer < layers.num_layers, BadFile, "checkpoint: MoE layer ",
                       layer, ", the model has layers 0 to ", layers.num_layers - 1, ".");
  std::sort(layers.moe_layers.begin(), layers.moe_layers.end());
  validate_from_file(layers.config, path);
  return {std::move(family), std::move(layers)};
}

}  // namespace

ModelConfig read_model_config(const nlohmann::json& json, const std::string& path) {
  const ConfigReader outer(json, path);
  const auto nested = outer.object({"text_config"});
  const ConfigReader& config = nested ? *nested : outer;
  const std::string model_type =
      config.text_or({"model_type"}, outer.text_or({"model_type"}, "nothing"));
  const Family* family = find_family(model_type);
  SWITCHYARD_REQUIRE(
      family != nullptr, Unsupported, "checkpoint: ", path, ", model_type=", model_type,
      ", known families are ", family_list(),
      ". Describe the layer by hand with --config layer.json (docs/checkpoints.md).");
  FamilyLayers layers = family->describe(config);
  layers.quantization = read_quantization(json, path);
  return checked(std::string(family->model_type), std::move(layers), path);
}

ModelConfig read_layer_json(const nlohmann::json& layer, const std::string& path) {
  FamilyLayers layers = describe_by_hand(ConfigReader(layer, path));
  layers.quantization = read_quantization(layer, path);
  return checked("by hand", std::move(layers), path);
}

}  // namespace switchyard
