// src/weights/checkpoint.cc -- a model's layers and the files that hold them.
#include "switchyard/checkpoint.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/require.h"
#include "weights/checkpoint_files.h"
#include "weights/config_reader.h"
#include "weights/layer_loader.h"
#include "weights/model_config.h"
#include "weights/model_folder.h"

namespace switchyard {
namespace {

class FamilyCheckpoint final : public Checkpoint {
 public:
  FamilyCheckpoint(ModelConfig model, const std::filesystem::path& directory)
      : family_(std::move(model.family)), layers_(std::move(model.layers)), files_(directory) {
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
  const std::string& quant_method() const override { return layers_.quantization.method; }
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
    const std::string router = fill_template(layers_.names.router, layers_.moe_layers.front());
    for (const char* prefix : kPrefixes)
      if (files_.has(prefix + router)) return prefix;
    return "";  // loading names the missing tensor
  }

  std::string family_;
  FamilyLayers layers_;
  CheckpointFiles files_;
  std::string prefix_;
};

}  // namespace

std::unique_ptr<Checkpoint> Checkpoint::open(const std::filesystem::path& directory,
                                             const std::filesystem::path& layer_json) {
  const auto folder = find_model_folder(directory);
  if (!layer_json.empty())
    return std::make_unique<FamilyCheckpoint>(
        read_layer_json(read_json_object(layer_json), layer_json.string()), folder);
  const auto path = folder / "config.json";
  return std::make_unique<FamilyCheckpoint>(
      read_model_config(read_json_object(path), path.string()), folder);
}

std::vector<std::string> known_families() {
  std::vector<std::string> names;
  for (const auto& family : families()) names.emplace_back(family.model_type);
  return names;
}

}  // namespace switchyard
