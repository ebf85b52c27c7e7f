// src/weights/checkpoint.cc -- a model's layers and the files that hold them.
#include "switchyard/checkpoint.h"

#include <algorithm>

#include "base/require.h"
#include "weights/block_search.h"
#include "weights/checkpoint_files.h"
#include "weights/json_file.h"
#include "weights/layer_loader.h"
#include "weights/model_config.h"
#include "weights/model_folder.h"
#include "weights/name_template.h"

namespace switchyard {
namespace {

// A folder with a config.json alone can be listed.
bool has_weights(const std::filesystem::path& directory) {
  return std::ranges::any_of(names_in(directory), [](const std::string& name) {
    return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
  });
}

class FamilyCheckpoint final : public Checkpoint {
 public:
  FamilyCheckpoint(ModelConfig model, std::filesystem::path directory)
      : family_(std::move(model.family)),
        layers_(std::move(model.layers)),
        directory_(std::move(directory)) {
    if (!has_weights(directory_)) return;
    files_ = CheckpointFiles::open(directory_);
    blocks_ = BlockSearch(*files_, layers_);
  }

  const std::string& family() const override { return family_; }
  int64_t num_layers() const override { return layers_.num_layers; }
  const std::vector<int64_t>& moe_layers() const override { return layers_.moe_layers; }

  std::string module_path(int64_t layer) const override {
    check_layer(layer);
    return fill_template(layers_.module, layer);
  }
  MoeConfig config(int64_t layer) const override { return tensors(layer).config; }
  std::string stored_format(int64_t layer) const override {
    const LayerTensors all = tensors(layer);
    return switchyard::stored_format(files(), all);
  }
  const std::string& quant_method() const override { return layers_.quantization.method; }
  LayerWeights load_layer(int64_t layer, int num_ranks, int rank,
                          const Progress& progress) const override {
    const LayerTensors all = tensors(layer);
    return switchyard::load_layer(files(), all, num_ranks, rank, progress);
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

  // Of a config alone: the refusal of its folder, which says what is there instead.
  const CheckpointFiles& files() const {
    if (!files_) CheckpointFiles::open(directory_);
    return *files_;
  }

  // Where a router is missing: what transformers calls the place, so that loading names the missing
  // tensor.
  std::string usual_prefix() const {
    if (layers_.names_are_whole) return "";
    const std::string& router = layers_.forms.front().router;
    const size_t at = layers_.module.find(router.substr(0, router.find('{')));
    return at == std::string::npos ? "" : layers_.module.substr(0, at);
  }

  LayerTensors tensors(int64_t layer) const {
    check_layer(layer);
    LayerTensors all{&layers_, &layers_.forms.front(), layers_.config_of(layer), usual_prefix(),
                     layer};
    const FoundBlock* block = blocks_.find(layer);
    if (block == nullptr) return all;
    all.names = &layers_.forms[block->form];
    all.prefix = block->prefix;
    // A router of f16 is exact in f32 as well.
    const std::string& dtype = files().entry(block->router).dtype;
    if (dtype == "F32" || dtype == "F16") all.config.router_f32 = true;
    return all;
  }

  std::string family_;
  FamilyLayers layers_;
  std::filesystem::path directory_;
  std::unique_ptr<const CheckpointFiles> files_;
  BlockSearch blocks_;
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
