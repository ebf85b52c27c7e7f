// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/checkpoint.cc -- a model's layers and the files that hold them.
#include "switchyard/checkpoint.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>

#include "base/as_error.h"
#include "base/names_in.h"
#include "base/require.h"
#include "weights/checkpoint_files.h"
#include "weights/family.h"
#include "weights/json_file.h"
#include "weights/layer_loader.h"
#include "weights/text.h"

namespace switchyard {
namespace {

constexpr const char* kOperation = "checkpoint";

// A folder with a config.json alone can be listed.
bool has_weights(const std::filesystem::path& directory) {
  return std::ranges::any_of(names_in(directory), [](const std::string& name) {
    return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
  });
}

// Components of names of other models beside the text model: drafts of later tokens, speech,
// images.
constexpr std::array kOtherModels = {"mtp",    "nextn",  "draft",  "eagle",
                                     "talker", "visual", "vision", "audio"};

bool is_another_model(std::string_view prefix) {
  return std::ranges::any_of(split(prefix, '.'), [](std::string_view component) {
    return component == "code_predictor" || std::ranges::any_of(kOtherModels, [&](auto other) {
             return component.starts_with(other);
           });
  });
}

// How many of a form's tensors the file has.
int count_present(const CheckpointFiles& files, const std::string& prefix, const TensorNames& n,
                  int64_t layer) {
  int count = 0;
  for (const std::string* name :
       {&n.router_scale, &n.router_bias, &n.correction_bias, &n.expert_scale, &n.global_scale,
        &n.token_experts, &n.expert_down, &n.fused_gate_up, &n.fused_down, &n.stacked_up,
        &n.shared_down, &n.shared_gate_up, &n.shared_expert_gate, &n.input_norm, &n.path_down,
        &n.output_norm}) {
    const std::string full = prefix + fill_template(*name, layer);
    // A quantised tensor has its own name or one of these.
    for (const char* suffix : {"", "_packed", "_blocks", "_scale"})
      if (!name->empty() && files.has(full + suffix)) {
        ++count;
        break;
      }
  }
  return count;
}

struct FoundBlock {
  std::string prefix;
  size_t form = 0;
  std::string router;  // its whole name
};

// Where a checkpoint has its MoE blocks: behind which prefix of `layers.N`, and under which of a
// family's forms of names.
class BlockSearch {
 public:
  BlockSearch() = default;
  // Looks at every name once.
  BlockSearch(const CheckpointFiles& files, const FamilyLayers& family) {
    files.for_each_name([&](const std::string& name) {
      for (size_t form = 0; form < family.forms.size(); ++form) {
        const auto match = match_tail(name, family.forms[form].router);
        if (!match) continue;
        std::string prefix = name.substr(0, match->prefix_length);
        if (!is_another_model(prefix))
          blocks_[match->layer].push_back({std::move(prefix), form, name});
      }
    });
    // Forms that call the router alike: the one with more of its tensors there, the first of equals.
    for (auto& [layer, blocks] : blocks_) {
      std::vector<FoundBlock> best;
      for (auto& block : blocks) {
        const auto same = std::ranges::find(best, block.router, &FoundBlock::router);
        const auto count = [&, layer = layer](const FoundBlock& b) {
          return count_present(files, b.prefix, family.forms[b.form], layer);
        };
        if (same == best.end())
          best.push_back(std::move(block));
        else if (count(block) > count(*same))
          *same = std::move(block);
      }
      const auto whole = std::ranges::find_if(
          best, [&](const auto& block) { return family.names_are_whole && block.prefix.empty(); });
      blocks = whole != best.end() ? std::vector{*whole} : std::move(best);
    }
  }

  // Null when the file has no router for this layer. Throws Error(BadFile) that lists the
  // candidates when there are several.
  const FoundBlock* find(int64_t layer) const {
    const auto at = blocks_.find(layer);
    if (at == blocks_.end()) return nullptr;
    const auto& blocks = at->second;
    std::vector<std::string> routers;
    routers.reserve(blocks.size());
    for (const auto& block : blocks) routers.push_back(block.router);
    SWITCHYARD_REQUIRE(blocks.size() == 1, BadFile, "checkpoint: layer ", layer,
                       ", its router could be each of ", joined(routers),
                       ". Name the right one in a layer.json and pass it with --config.");
    return &blocks.front();
  }

 private:
  std::map<int64_t, std::vector<FoundBlock>> blocks_;
};

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
    return as_errors(kOperation, [&] {
      check_layer(layer);
      return fill_template(layers_.module, layer);
    });
  }
  MoeConfig config(int64_t layer) const override {
    return as_errors(kOperation, [&] { return tensors(layer).config; });
  }
  std::string stored_format(int64_t layer) const override {
    return as_errors(kOperation, [&] {
      const LayerTensors all = tensors(layer);
      return switchyard::stored_format(files(), all);
    });
  }
  const std::string& quant_method() const override { return layers_.quantization.method; }
  ExpertFormat native_format(int64_t layer) const override {
    return as_errors(kOperation, [&] {
      const LayerTensors all = tensors(layer);
      return switchyard::native_format(files(), all);
    });
  }
  LayerWeights load_layer(int64_t layer, int num_ranks, int rank, const Progress& progress,
                          WeightForms forms) const override {
    return as_errors(kOperation, [&] {
      const LayerTensors all = tensors(layer);
      return switchyard::load_layer(files(), all, num_ranks, rank, forms, progress);
    });
  }

 private:
  void check_layer(int64_t layer) const {
    const auto& moe = layers_.moe_layers;
    std::string list = joined(std::span(moe).first(std::min<size_t>(moe.size(), 8)));
    if (moe.size() > 8) list += cat(", ... ", moe.back());
    SWITCHYARD_REQUIRE(std::ranges::find(moe, layer) != moe.end(), BadFile,
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
  return as_errors(kOperation, [&]() -> std::unique_ptr<Checkpoint> {
    const auto folder = find_model_folder(directory);
    if (!layer_json.empty())
      return std::make_unique<FamilyCheckpoint>(
          read_layer_json(*read_json_object(layer_json), layer_json.string()), folder);
    const auto path = folder / "config.json";
    return std::make_unique<FamilyCheckpoint>(
        read_model_config(*read_json_object(path), path.string()), folder);
  });
}

std::vector<std::string> known_families() {
  std::vector<std::string> names;
  for (const auto& family : families()) names.emplace_back(family.model_type);
  return names;
}

}  // namespace switchyard
