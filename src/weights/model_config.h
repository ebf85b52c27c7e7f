// src/weights/model_config.h -- config.json -> family -> layers.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

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

}  // namespace switchyard
