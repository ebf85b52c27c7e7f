// src/weights/model_config.cc
#include "weights/model_config.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "switchyard/checkpoint.h"
#include "weights/config_reader.h"
#include "weights/text.h"

namespace switchyard {
namespace {

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
  std::ranges::sort(layers.moe_layers);
  validate_from_file(layers.config, path);
  for (const auto& [layer, config] : layers.other_layers) validate_from_file(config, path);
  return {std::move(family), std::move(layers)};
}

// config.json, and what is nested in it down to the text model: the last is the one to read.
std::vector<ConfigReader> levels_of(const ConfigReader& outer) {
  constexpr std::array kNested = {"text_config", "llm_config", "language_config"};
  std::vector<ConfigReader> levels{outer};
  if (auto thinker = outer.object({"thinker_config"})) levels.push_back(*thinker);
  for (const char* key : kNested)
    if (auto text = levels.back().object({key})) {
      levels.push_back(*text);
      break;
    }
  return levels;
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
      ", known families are ", joined(known_families()),
      ". Describe the layer by hand with --config layer.json (docs/guide/checkpoints.md).");
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

// "Qwen3Moe" of "Qwen3MoeForCausalLM".
std::string_view stem_of(std::string_view architecture) {
  return architecture.substr(0, architecture.rfind("For"));
}

bool has_architecture(const Family& family, std::string_view stem) {
  return std::ranges::count(split(family.architectures, ' '), stem) > 0;
}

// Whether a file could be of either family: a router of theirs has one name.
bool may_be_mistaken(const Family& a, const Family& b, const ConfigReader& config) {
  try {
    const FamilyLayers x = a.describe(config), y = b.describe(config);
    for (const auto& mine : x.forms)
      for (const auto& theirs : y.forms)
        if (mine.router == theirs.router) return true;
    return false;
  } catch (const Error&) {
    return true;  // this config is not of both
  }
}

// Code of another family that we know is another block. Where its tensors are called otherwise,
// model_type is obeyed, and those of its family have to be there.
void check_architectures(const ConfigReader& config, const Family& family) {
  for (const std::string& name : config.texts_or_none({"architectures"})) {
    const auto stem = stem_of(name);
    if (has_architecture(family, stem)) continue;
    for (const Family& other : families())
      SWITCHYARD_REQUIRE(!has_architecture(other, stem) || !may_be_mistaken(family, other, config),
                         Unsupported, "checkpoint: ", config.file(), ", architectures=", name,
                         ", model_type=", family.model_type,
                         ", they are two families. Make them agree, or use "
                         "--config layer.json.");
  }
}

}  // namespace

ModelConfig read_model_config(const nlohmann::json& json, const std::string& path) {
  const auto levels = levels_of(ConfigReader(json, path));
  const ConfigReader &outer = levels.front(), &config = levels.back();
  const Family& family = family_of(outer, config);
  for (const auto& level : levels) check_architectures(level, family);
  FamilyLayers layers = family.describe(config);
  layers.quantization = read_quantization(json, path);
  if (levels.size() > 1) use_nested_module(layers);
  ModelConfig model = checked(std::string(family.model_type), std::move(layers), path);
  for (const auto& level : levels) check_moe_keys(level, model.family, model.layers);
  // dbrx describes its experts in an object of their own.
  if (const auto ffn = config.object({"ffn_config"}))
    check_moe_keys(*ffn, model.family, model.layers);
  return model;
}

ModelConfig read_layer_json(const nlohmann::json& layer, const std::string& path) {
  FamilyLayers layers = describe_by_hand(ConfigReader(layer, path));
  layers.quantization = read_quantization(layer, path);
  return checked("by hand", std::move(layers), path);
}

}  // namespace switchyard
