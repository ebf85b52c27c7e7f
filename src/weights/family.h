// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family.h -- what a checkpoint family says: which layers are MoE layers, what they
// compute, and what their tensors are called. Adding a family: CONTRIBUTING.md.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/config.h"
#include "weights/json_file.h"
#include "weights/stored_tensor.h"

namespace switchyard {

// The layout of all experts' matrices in one tensor. Straight: [E, 2I, H] and [E, H, I]. Of Either the
// shapes of both tensors decide: 2I = H and I = H never hold at once.
enum class Fused { Straight, Transposed, Either };

// Tensor names as templates that begin at the layer: "layers.{layer}.mlp.gate.weight". The
// prefix before it is found in the file. {layer} and {expert} are replaced by numbers. Empty: there is no such
// tensor.
struct TensorNames {
  std::string router;              // [router_rows, H]
  bool router_transposed = false;  // [H, router_rows] instead
  std::string router_scale;        // [H]: the router's columns times this and H^-1/2
  std::string router_bias;         // [router_rows]
  std::string correction_bias;     // [num_choices], or [n, num_choices] with n = correction_rows
  int64_t correction_rows = 1;     // of which the first one counts
  std::string expert_scale;        // [E]
  std::string global_scale;        // [1]: every entry of the expert scale
  std::string token_experts;       // i64 [V, K]

  std::string expert_gate;  // [I, H], one tensor per expert
  std::string expert_up;    // [I, H]; alone for an activation without a gate
  std::string expert_down;  // [H, I]

  std::string fused_gate_up;       // [E, 2I, H], all experts in one tensor; read where it exists
  std::string stacked_gate;        // or, also with fused_down, two of [E, I, H]
  std::string stacked_up;          // alone for an activation without a gate
  std::string fused_down;          // [E, H, I]
  std::string fused_gate_up_bias;  // [E, 2I]
  std::string fused_down_bias;     // [E, H]
  Fused fused = Fused::Straight;
  bool fused_interleaved = false;  // gate and up alternate along 2I instead of standing in halves
  // dbrx: [E * I, H], [E * I, H] and, transposed, [E * I, H].
  bool flat_stacks = false;

  std::string shared_gate;          // [Is, H]; of S scored experts [S, Is / S, H]
  std::string shared_up;            // [Is, H]
  std::string shared_down;          // [H, Is]; of S scored experts [S, H, Is / S]
  std::string shared_gate_up;       // [2Is, H], read where it exists; [S, 2Is / S, H]
  bool shared_interleaved = false;  // gate and up alternate in it
  std::string shared_expert_gate;   // [1, H]

  std::string input_norm;   // [H]
  std::string path_down;    // [L, H]
  std::string output_norm;  // [L] or [H]
  std::string path_up;      // [H, L]
};

// A template with its numbers filled in.
std::string fill_template(std::string name, int64_t layer, int64_t expert = 0);
// Its {layer} alone.
std::string fill_layer(std::string name, int64_t layer);

// The layer of a name that ends with the template, and the length of its prefix. A
// template begins behind a dot or at the name's beginning.
struct TemplateMatch {
  int64_t layer = 0;
  size_t prefix_length = 0;
};
std::optional<TemplateMatch> match_tail(std::string_view name, std::string_view name_template);

// A key that published configs carry with this value and published code does not read.
struct UnreadKey {
  std::string_view key;
  std::string value;  // as JSON
};

struct FamilyLayers {
  MoeConfig config;  // of every layer that is not in the next
  std::map<int64_t, MoeConfig> other_layers;
  // The hub's names first, then those that transformers 5 holds in memory, where a router, a bias
  // or a shared expert is called otherwise. The form whose tensors are there counts.
  std::vector<TensorNames> forms;
  float down_factor = 1;  // of W2, routed and shared; a power of two
  Quantization quantization = undeclared_quantization();
  // The module's path in transformers; in a nested model that of nested_module, by default with
  // "model.language_model." in place of "model.".
  std::string module = "model.layers.{layer}.mlp";
  std::string nested_module;
  int64_t num_layers = 0;
  std::vector<int64_t> moe_layers;
  bool names_are_whole = false;  // templates have the prefix, too (layer.json)
  std::vector<UnreadKey> unread;
  std::vector<std::string> left_out;  // templates: tensors of a layer that are not read on purpose
  int64_t num_left_out_experts = 0;   // and experts, behind those that are

  const MoeConfig& config_of(int64_t layer) const {
    const auto at = other_layers.find(layer);
    return at == other_layers.end() ? config : at->second;
  }
};

// Completes what common_layers made of the config, or makes it.
using Describe = void(FamilyLayers& f, const ConfigReader& config);

struct Family {
  std::string_view model_type;
  // `architectures` of config.json without their endings, separated by spaces.
  std::string_view architectures;
  Describe* describe;
  bool makes_it_all = false;  // sizes are not where common_layers looks, or something comes before

  FamilyLayers layers(const ConfigReader& config) const;
};

// THE list of families, in order.
const std::vector<Family>& families();
// "qwen3_moe", or "qwen3_moe_text" of a nested config; null: not known.
const Family* find_family(std::string_view model_type);

// A layer described by hand (layer.json).
FamilyLayers describe_by_hand(const ConfigReader& layer);

// ---- config.json -> family -> layers

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
