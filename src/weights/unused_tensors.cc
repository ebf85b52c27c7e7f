// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/unused_tensors.cc -- tensors that would change what a layer computes, if they were
// read.
#include <algorithm>

#include "weights/layer_loader.h"
#include "weights/text.h"

namespace switchyard {
namespace {

constexpr std::string_view kLayer = "{layer}.", kExpert = "{expert}", kExperts = "experts";

// The templates that this layer's config reads.
std::vector<std::string> read_templates(const TensorNames& n, const MoeConfig& c) {
  std::vector<std::string> all = {n.router,       n.router_scale, n.expert_gate,
                                  n.expert_up,    n.expert_down,  n.fused_gate_up,
                                  n.stacked_gate, n.stacked_up,   n.fused_down};
  const auto add_if = [&](bool is_read, std::initializer_list<std::string> names) {
    if (is_read) all.insert(all.end(), names);
  };
  add_if(c.router_bias, {n.router_bias});
  add_if(c.gate.correction_bias, {n.correction_bias});
  add_if(c.gate.expert_scale, {n.expert_scale, n.global_scale});
  add_if(c.gate.vocabulary > 0, {n.token_experts});
  add_if(c.expert_bias, {n.fused_gate_up_bias, n.fused_down_bias});
  add_if(c.shared.intermediate > 0, {n.shared_gate, n.shared_up, n.shared_down, n.shared_gate_up});
  add_if(c.shared.sigmoid_gated, {n.shared_expert_gate});
  add_if(c.path.input_norm, {n.input_norm});
  add_if(c.path.latent > 0, {n.path_down, n.path_up});
  add_if(c.path.output_norm, {n.output_norm});
  std::erase(all, "");
  return all;
}

// "mlp.gate." of "layers.{layer}.mlp.gate.weight"; the part behind the layer.
std::string_view behind_layer(std::string_view name_template) {
  const size_t at = name_template.find(kLayer);
  return at == std::string_view::npos ? name_template : name_template.substr(at + kLayer.size());
}
std::string_view folder_of(std::string_view name) {
  return name.substr(0, name.rfind('.') + 1);
}

class BlockNames {
 public:
  explicit BlockNames(const LayerTensors& tensors)
      : tensors_(tensors), read_(read_templates(*tensors.names, tensors.config)) {
    const auto& left_out = tensors.family->left_out;
    read_.insert(read_.end(), left_out.begin(), left_out.end());
    for (std::string& name : read_) name = tensors.prefix + fill_layer(name, tensors.layer);
    const std::string_view router = tensors.names->router;
    const std::string_view down =
        tensors.names->expert_down.empty() ? tensors.names->fused_down : tensors.names->expert_down;
    const size_t layer = router.find(kLayer);
    if (layer == std::string_view::npos) return;
    head_ = tensors.prefix +
            fill_template(std::string(router.substr(0, layer + kLayer.size())), tensors.layer);
    router_folder_ = folder_of(behind_layer(router));
    const std::string_view experts = behind_layer(down);
    experts_folder_ = experts.substr(0, experts.find(kExpert));
    experts_folder_ = folder_of(experts_folder_);
    const size_t common = common_prefix(router_folder_, experts_folder_);
    block_folder_ = folder_of(router_folder_.substr(0, common));
  }

  // Why `name` must not be left unread; null where it may.
  const char* objection(const std::string& whole) const {
    std::string_view name = whole;
    if (head_.empty() || !name.starts_with(head_) || is_read(name)) return nullptr;
    name.remove_prefix(head_.size());
    const auto parts = split(name, '.');
    if (parts.empty()) return nullptr;
    const bool shared = is_shared(name, parts);
    if (shared && !is_beside_read(whole)) return "a shared expert's and is not used";
    if (!shared && !is_inside(name)) return nullptr;
    if (is_expert_behind(parts)) return "an expert that the config does not count";
    const std::string_view last = parts.back();
    if (last.ends_with("bias")) return "a bias that is not used";
    if (name.find("norm") != std::string_view::npos) return "a norm that is not used";
    if (last == "tid2eid") return "a table of token ids that is not used";
    if (last == "per_expert_scale" || last == "global_scale" ||
        (last == "scale" && name.starts_with(router_folder_)))
      return "a scale that is not used";
    if (name.find("latent_proj") != std::string_view::npos ||
        name.find("routed_expert_") != std::string_view::npos)
      return "a projection that is not used";
    return nullptr;
  }

 private:
  bool is_read(std::string_view name) const {
    return std::ranges::any_of(read_, [&](const std::string& one) {
      const size_t at = one.find(kExpert);
      if (at == std::string::npos) return name == one;
      const auto behind = std::string_view(one).substr(at + kExpert.size());
      if (name.size() < one.size() - kExpert.size() || !name.starts_with(one.substr(0, at)) ||
          !name.ends_with(behind))
        return false;
      const auto id = integer_of(name.substr(at, name.size() - at - behind.size()));
      return id && *id < num_experts();
    });
  }
  // A scale, say, that belongs to a tensor that is read.
  bool is_beside_read(std::string_view name) const {
    constexpr std::string_view kWeight = "weight";
    return std::ranges::any_of(read_, [&](const std::string& one) {
      std::string_view stem = one;
      if (stem.ends_with(kWeight)) stem.remove_suffix(kWeight.size());
      return name.starts_with(stem);
    });
  }
  int64_t num_experts() const {
    return tensors_.config.num_experts + tensors_.family->num_left_out_experts;
  }

  // Beside the block or in it: "share_expert.up_proj.weight", "mlp.shared_experts. ...".
  bool is_shared(std::string_view name, const std::vector<std::string_view>& parts) const {
    const auto is_named_so = [](std::string_view part) {
      return part.starts_with("shared_") || part.starts_with("share_expert");
    };
    if (is_named_so(parts.front())) return true;
    const auto depth = static_cast<size_t>(std::ranges::count(block_folder_, '.'));
    return depth < parts.size() && name.starts_with(block_folder_) && is_named_so(parts[depth]);
  }
  bool is_inside(std::string_view name) const {
    return (!block_folder_.empty() && name.starts_with(block_folder_)) ||
           name.starts_with(router_folder_) || name.starts_with(experts_folder_);
  }
  bool is_expert_behind(const std::vector<std::string_view>& parts) const {
    for (size_t i = 0; i + 1 < parts.size(); ++i)
      if (parts[i] == kExperts)
        if (const auto id = integer_of(parts[i + 1])) return *id >= num_experts();
    return false;
  }

  const LayerTensors& tensors_;
  std::vector<std::string> read_;    // whole names, with {expert} in them
  std::string head_;                 // whole, up to the dot behind the layer
  std::string_view router_folder_;   // behind that
  std::string_view experts_folder_;  // without the expert's number
  std::string_view block_folder_;    // of both; empty where they have none in common
};

}  // namespace

void check_unused_tensors(const CheckpointFiles& files, const LayerTensors& tensors) {
  const BlockNames names(tensors);
  files.for_each_name([&](const std::string& name) {
    const char* objection = names.objection(name);
    SWITCHYARD_REQUIRE(objection == nullptr, Unsupported, "checkpoint: tensor ", name, " is ",
                       objection ? objection : "",
                       ". Correct config.json, or describe the layer "
                       "with --config layer.json and name it in left_out.");
  });
}

}  // namespace switchyard
