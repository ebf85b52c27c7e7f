// src/weights/model_config.h -- config.json -> family -> layers.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "weights/family.h"

namespace switchyard {

struct ModelConfig {
  std::string family;  // model_type without "_text"; "by hand"
  FamilyLayers layers;
};

// From config.json; a text model may be nested in it. Throws Error(BadFile) for keys that are
// missing or senseless, Unsupported for an unknown family, with the known ones.
ModelConfig read_model_config(const nlohmann::json& config, const std::string& path);
// From a layer.json (docs/guide/checkpoints.md).
ModelConfig read_layer_json(const nlohmann::json& layer, const std::string& path);

// moe_keys.cc: every key of a config.json that changes an MoE block's numbers, in all its published
// spellings. Throws Error(Unsupported) with key, value and what is computed, for the first key of
// `config` that says something else than `layers`. Null means "none of it". Unknown keys are passed
// over.
void check_moe_keys(const ConfigReader& config, std::string_view family,
                    const FamilyLayers& layers);

// All of them, in order.
std::vector<std::string_view> moe_keys();

}  // namespace switchyard
