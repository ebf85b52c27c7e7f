// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family.cc -- the list, names that are templates, and what a config.json describes.
#include "weights/family.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "switchyard/checkpoint.h"
#include "weights/family_parts.h"
#include "weights/text.h"

namespace switchyard {
namespace {

constexpr std::string_view kLayer = "{layer}", kExpert = "{expert}";

void replace_all(std::string& name, std::string_view key, int64_t value) {
  for (size_t at = 0; (at = name.find(key, at)) != std::string::npos;)
    name.replace(at, key.size(), std::to_string(value));
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
    const FamilyLayers x = a.layers(config), y = b.layers(config);
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

FamilyLayers Family::layers(const ConfigReader& config) const {
  FamilyLayers f = makes_it_all ? FamilyLayers() : common_layers(config);
  describe(f, config);
  return f;
}

const std::vector<Family>& families() {
  static const std::vector<Family> all = [] {
    std::vector<Family> list = sigmoid_families();
    for (const auto& more : {softmax_families(), top_k_softmax_families()})
      list.insert(list.end(), more.begin(), more.end());
    std::ranges::sort(list, {}, &Family::model_type);
    return list;
  }();
  return all;
}

const Family* find_family(std::string_view model_type) {
  constexpr std::string_view kText = "_text";
  if (model_type.ends_with(kText)) model_type.remove_suffix(kText.size());
  const auto at = std::ranges::find(families(), model_type, &Family::model_type);
  return at == families().end() ? nullptr : &*at;
}

std::string fill_layer(std::string name, int64_t layer) {
  replace_all(name, kLayer, layer);
  return name;
}

std::string fill_template(std::string name, int64_t layer, int64_t expert) {
  name = fill_layer(std::move(name), layer);
  replace_all(name, kExpert, expert);
  return name;
}

std::optional<TemplateMatch> match_tail(std::string_view name, std::string_view name_template) {
  const size_t at = name_template.find(kLayer);
  if (at == std::string_view::npos) return {};
  const auto tail = name_template.substr(at + kLayer.size()), head = name_template.substr(0, at);
  if (!name.ends_with(tail)) return {};
  name.remove_suffix(tail.size());
  size_t digits = 0;
  while (digits < name.size() && name[name.size() - 1 - digits] >= '0' &&
         name[name.size() - 1 - digits] <= '9')
    ++digits;
  TemplateMatch match;
  const char* first = name.data() + name.size() - digits;
  if (std::from_chars(first, name.data() + name.size(), match.layer).ec != std::errc{}) return {};
  if (digits > 1 && *first == '0') return {};  // "layers.01" is no layer of ours
  name.remove_suffix(digits);
  if (!name.ends_with(head)) return {};
  match.prefix_length = name.size() - head.size();
  if (match.prefix_length > 0 && name[match.prefix_length - 1] != '.') return {};
  return match;
}

ModelConfig read_model_config(const nlohmann::json& json, const std::string& path) {
  const auto levels = levels_of(ConfigReader(json, path));
  const ConfigReader &outer = levels.front(), &config = levels.back();
  const Family& family = family_of(outer, config);
  for (const auto& level : levels) check_architectures(level, family);
  FamilyLayers layers = family.layers(config);
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
