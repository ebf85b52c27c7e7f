// src/weights/model_config.cc
#include "weights/model_config.h"

#include <algorithm>
#include <array>
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

// Of block-scaled fp8 checkpoints; 128 x 128 unless config.json says otherwise.
ScaleBlock scale_block_of(const ConfigReader& config) {
  const auto quantization = config.object({"quantization_config"});
  if (!quantization) return {};
  const auto size = quantization->integers_or_none({"weight_block_size"});
  if (size.empty()) return {};
  SWITCHYARD_REQUIRE(size.size() == 2 && std::min(size[0], size[1]) >= 1, BadFile,
                     "checkpoint: weight_block_size has ", size.size(), " entries, the first ",
                     size[0], ", need two positive ones.");
  return {size[0], size[1]};
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
  for (const auto& [layer, config] : layers.other_layers) validate_from_file(config, path);
  return {std::move(family), std::move(layers)};
}

// The text model's config inside that of a larger model.
std::optional<ConfigReader> nested_config(const ConfigReader& outer) {
  constexpr std::array kNested = {"text_config", "llm_config", "language_config"};
  if (const auto thinker = outer.object({"thinker_config"}))
    if (auto text = thinker->object({"text_config"})) return text;
  for (const char* key : kNested)
    if (auto text = outer.object({key})) return text;
  return {};
}

// A model may be known by its own name though its text model carries another family's: the outer
// model_type decides where it is known.
const Family& family_of(const ConfigReader& outer, const ConfigReader& text) {
  const std::string own = outer.text_or({"model_type"}, "");
  const std::string nested = text.text_or({"model_type"}, own.empty() ? "nothing" : own);
  const Family* family = find_family(own);
  if (family == nullptr) family = find_family(nested);
  SWITCHYARD_REQUIRE(
      family != nullptr, Unsupported, "checkpoint: ", outer.file(), ", model_type=", nested,
      ", known families are ", family_list(),
      ". Describe the layer by hand with --config layer.json (docs/checkpoints.md).");
  return *family;
}

// The module's path of a nested text model.
void use_nested_module(FamilyLayers& layers) {
  constexpr std::string_view kModel = "model.";
  if (!layers.nested_module.empty())
    layers.module = layers.nested_module;
  else if (layers.module.starts_with(kModel))
    layers.module.replace(0, kModel.size(), "model.language_model.");
}

}  // namespace

ModelConfig read_model_config(const nlohmann::json& json, const std::string& path) {
  const ConfigReader outer(json, path);
  const auto nested = nested_config(outer);
  const ConfigReader& config = nested ? *nested : outer;
  const Family& family = family_of(outer, config);
  FamilyLayers layers = family.describe(config);
  layers.scale_block = scale_block_of(outer);
  if (nested) use_nested_module(layers);
  return checked(std::string(family.model_type), std::move(layers), path);
}

ModelConfig read_layer_json(const nlohmann::json& layer, const std::string& path) {
  return checked("by hand", describe_by_hand(ConfigReader(layer, path)), path);
}

}  // namespace switchyard
