// src/weights/checkpoint.cc -- config.json -> family -> layers.
#include "switchyard/checkpoint.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/require.h"
#include "weights/checkpoint_files.h"
#include "weights/family.h"
#include "weights/layer_loader.h"

namespace switchyard {
namespace {

class FamilyCheckpoint final : public Checkpoint {
 public:
  FamilyCheckpoint(std::string family, FamilyLayers layers, const std::filesystem::path& directory)
      : family_(std::move(family)), layers_(std::move(layers)), files_(directory) {
    for (const int64_t layer : layers_.moe_layers)
      SWITCHYARD_REQUIRE(layer >= 0 && layer < layers_.num_layers, BadFile,
                         "checkpoint: MoE layer ", layer, ", the model has layers 0 to ",
                         layers_.num_layers - 1, ".");
    std::sort(layers_.moe_layers.begin(), layers_.moe_layers.end());
    validate(layers_.config);
    prefix_ = find_prefix();
  }

  const std::string& family() const override { return family_; }
  int64_t num_layers() const override { return layers_.num_layers; }
  const std::vector<int64_t>& moe_layers() const override { return layers_.moe_layers; }

  std::string module_path(int64_t layer) const override {
    check_layer(layer);
    return prefix_ + fill_template(layers_.module, layer);
  }
  MoeConfig config(int64_t layer) const override {
    check_layer(layer);
    return layers_.config;
  }
  std::string stored_format(int64_t layer) const override {
    check_layer(layer);
    return switchyard::stored_format(files_, prefix_, layers_, layer);
  }
  LayerWeights load_layer(int64_t layer, int num_ranks, int rank,
                          const Progress& progress) const override {
    check_layer(layer);
    return switchyard::load_layer(files_, prefix_, layers_, layer, num_ranks, rank, progress);
  }

 private:
  void check_layer(int64_t layer) const {
    const auto& moe = layers_.moe_layers;
    std::string list;
    for (size_t i = 0; i < moe.size() && i < 8; ++i) list += cat(i ? ", " : "", moe[i]);
    if (moe.size() > 8) list += cat(", ... ", moe.back());
    SWITCHYARD_REQUIRE(std::find(moe.begin(), moe.end(), layer) != moe.end(), BadFile,
                       "checkpoint: layer=", layer, ", is no MoE layer. MoE layers are ",
                       list.empty() ? "none" : list, ".");
  }

  // Text models nested in others put something before or after "model.".
  std::string find_prefix() const {
    constexpr std::array kPrefixes = {"", "language_model.", "model.language_model."};
    if (layers_.moe_layers.empty()) return "";
    for (const std::string prefix : kPrefixes) {
      if (files_.has(prefix + fill_template(layers_.names.router, layers_.moe_layers.front())))
        return prefix;
    }
    return "";  // loading names the missing tensor
  }

  std::string family_;
  FamilyLayers layers_;
  CheckpointFiles files_;
  std::string prefix_;
};

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

// "qwen3_moe", or "qwen3_moe_text" of a nested config.
const Family* find_family(std::string_view model_type) {
  constexpr std::string_view kText = "_text";
  if (model_type.ends_with(kText)) model_type.remove_suffix(kText.size());
  for (const auto& family : families())
    if (family.model_type == model_type) return &family;
  return nullptr;
}

}  // namespace

std::unique_ptr<Checkpoint> Checkpoint::open(const std::filesystem::path& directory,
                                             const std::filesystem::path& layer_json) {
  if (!layer_json.empty()) {
    const auto json = read_json_object(layer_json);
    return std::make_unique<FamilyCheckpoint>(
        "by hand", describe_by_hand(ConfigReader(json, layer_json.string())), directory);
  }
  SWITCHYARD_REQUIRE(std::filesystem::is_directory(directory), BadFile,
                     "checkpoint: ", directory.string(),
                     ", is no folder. Pass the folder that holds config.json.");
  const auto path = directory / "config.json";
  const auto json = read_json_object(path);
  const ConfigReader outer(json, path.string());
  const auto nested = outer.object({"text_config"});
  const ConfigReader& config = nested ? *nested : outer;
  const std::string model_type =
      config.text_or({"model_type"}, outer.text_or({"model_type"}, "nothing"));
  const Family* family = find_family(model_type);
  SWITCHYARD_REQUIRE(
      family != nullptr, Unsupported, "checkpoint: ", path.string(), ", model_type=", model_type,
      ", known families are ", family_list(),
      ". Describe the layer by hand with --config layer.json (docs/checkpoints.md).");
  FamilyLayers layers = family->describe(config);
  layers.scale_block = scale_block_of(outer);
  return std::make_unique<FamilyCheckpoint>(std::string(family->model_type), std::move(layers),
                                            directory);
}

std::vector<std::string> known_families() {
  std::vector<std::string> names;
  for (const auto& family : families()) names.emplace_back(family.model_type);
  return names;
}

}  // namespace switchyard
