// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family_parts.cc
#include "weights/family_parts.h"

#include <algorithm>

#include "base/checked.h"

namespace switchyard {
namespace {

void check_entries(const char* key, size_t entries, int64_t num_layers) {
  SWITCHYARD_REQUIRE(static_cast<int64_t>(entries) >= num_layers, BadFile, "checkpoint: ", key,
                     " has ", entries, " entries, need one for each of ", num_layers, " layers.");
}

std::vector<int64_t> layers_by_type(const std::vector<std::string>& types, int64_t num_layers) {
  check_entries("mlp_layer_types", types.size(), num_layers);
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < num_layers; ++i) {
    const std::string& type = types[i];
    const bool sparse = type == "sparse" || type == "moe" || type == "hash_moe";
    SWITCHYARD_REQUIRE(sparse || type == "dense", Unsupported, "checkpoint: mlp_layer_types=", type,
                       ", known are dense, sparse, moe, hash_moe.");
    if (sparse) layers.push_back(i);
  }
  return layers;
}

std::vector<int64_t> layers_by_flag(const std::vector<int64_t>& flags, int64_t num_layers) {
  check_entries("moe_layer_freq", flags.size(), num_layers);
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < num_layers; ++i)
    if (flags[i] != 0) layers.push_back(i);
  return layers;
}

TensorNames names_in(const std::string& block, const BlockNames& own, const char* gate,
                     const char* up, const char* down) {
  TensorNames names;
  names.router = block + own.router;
  if (*own.correction_bias) names.correction_bias = block + own.correction_bias;
  names.expert_gate = cat(block, ".experts.{expert}.", gate, ".weight");
  names.expert_up = cat(block, ".experts.{expert}.", up, ".weight");
  names.expert_down = cat(block, ".experts.{expert}.", down, ".weight");
  name_fused_experts(names, block);
  if (*own.shared) name_shared_expert(names, block + own.shared);
  return names;
}

}  // namespace

FamilyLayers common_layers(const ConfigReader& config) {
  FamilyLayers f;
  MoeConfig& c = f.config;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate = config.integer({"moe_intermediate_size", "expert_intermediate_size",
                                   "expert_ffn_hidden_size", "intermediate_size"});
  c.num_experts =
      config.integer({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"});
  c.top_k = config.integer({"num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k",
                            "moe_top_k", "top_k_experts", "top_k"});
  c.activation =
      activation_of(config, {"hidden_act", "hidden_activation", "mlp_hidden_act"}, "silu");
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  return f;
}

int64_t num_layers_of(const ConfigReader& config) {
  const int64_t n = config.integer({"num_hidden_layers", "num_layers", "n_layer", "n_layers"});
  // 100,000: a limit far from any model, so that a damaged number allocates nothing.
  SWITCHYARD_REQUIRE(n >= 1 && n <= 100'000, BadFile, "checkpoint: num_hidden_layers=", n,
                     ", need 1 to 100000.");
  return n;
}

int64_t num_shared_experts(const ConfigReader& config, int64_t fallback) {
  return config.integer_or(
      {"n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"},
      fallback, 0);
}

void add_shared_experts(MoeConfig& config, int64_t number) {
  SWITCHYARD_REQUIRE(number >= 0, BadFile, "checkpoint: shared experts=", number,
                     ", must not be negative.");
  SWITCHYARD_REQUIRE(config.intermediate >= 0, BadFile,
                     "checkpoint: moe_intermediate_size=", config.intermediate,
                     ", must be positive.");
  config.shared.intermediate =
      checked_mul(number, config.intermediate, "checkpoint: shared experts");
}

void use_sigmoid_gate(GateConfig& gate, float epsilon) {
  gate.scoring = Scoring::Sigmoid;
  gate.correction_bias = gate.renormalize = true;
  gate.renormalize_epsilon = epsilon;
}

void read_groups(GateConfig& gate, const ConfigReader& config) {
  gate.renormalize = config.boolean_or({"norm_topk_prob"}, true);
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  gate.num_groups = config.integer_or({"n_group"}, 1, 1);
  gate.num_groups_kept = config.integer_or({"topk_group"}, 1, 1);
}

float scale_of(const ConfigReader& config, ConfigReader::Keys keys, double absent) {
  return config.float_or(keys, absent, 1.0);
}

Activation activation_of(const ConfigReader& config, ConfigReader::Keys keys,
                         const std::string& absent) {
  const std::string name = config.text_or(keys, absent);
  try {
    return activation_from_name(name);
  } catch (const Error& e) {
    const auto key = std::ranges::find_if(keys, [&](const char* one) { return config.has({one}); });
    throw Error(e.code(), cat("checkpoint: ", config.file(), ", ", *key, ": ", e.what()));
  }
}

Scoring scoring_from_name(const ConfigReader& config, const char* key, const char* absent) {
  const std::string name = config.text_or({key}, absent);
  if (name == "softmax") return Scoring::Softmax;
  if (name == "sigmoid") return Scoring::Sigmoid;
  SWITCHYARD_REQUIRE(name == "sqrtsoftplus", Unsupported, "checkpoint: ", config.file(), ", ", key,
                     "=", name, ", known are softmax, sigmoid, sqrtsoftplus.");
  return Scoring::SqrtSoftplus;
}

void clamp_activation(Activation& activation, ActivationKind kind, double limit) {
  if (limit == 0) return;
  SWITCHYARD_REQUIRE(activation.kind == ActivationKind::SiluGated, Unsupported,
                     "checkpoint: activation=", activation_name(activation.kind),
                     " with a limit=", limit, ", only silu is clamped so.");
  activation.kind = kind;
  activation.limit = static_cast<float>(limit);
}

void clamp_before_silu(Activation& activation, const ConfigReader& config) {
  clamp_activation(activation, ActivationKind::SiluOfClamped,
                   config.number_or({"swiglu_limit"}, 10.0, 0.0));
}

std::vector<int64_t> layers_from(int64_t first, int64_t num_layers) {
  return every_layer_of(std::max<int64_t>(0, first), 1, num_layers);
}

std::vector<int64_t> every_layer_of(int64_t first, int64_t step, int64_t num_layers) {
  SWITCHYARD_REQUIRE(first >= 0 && step >= 1, BadFile, "checkpoint: MoE layers from ", first,
                     " in steps of ", step,
                     ", need a first of at least 0 and a step of at least 1.");
  std::vector<int64_t> layers;
  const int64_t stride = std::min(step, num_layers);  // so that no sum overflows
  for (int64_t layer = first; layer < num_layers; layer += stride) layers.push_back(layer);
  return layers;
}

std::vector<int64_t> every_nth_layer(int64_t step, int64_t num_layers) {
  SWITCHYARD_REQUIRE(step >= 1, BadFile, "checkpoint: MoE layers in steps of ", step,
                     ", need at least 1.");
  return every_layer_of(step - 1, step, num_layers);
}

std::vector<int64_t> sparse_layers(const ConfigReader& config, int64_t num_layers,
                                   int64_t first_dense) {
  if (config.has({"mlp_layer_types"}))
    return layers_by_type(config.texts_or_none({"mlp_layer_types"}), num_layers);
  if (config.is_list("moe_layer_freq"))
    return layers_by_flag(config.integers_or_none({"moe_layer_freq"}), num_layers);
  return layers_from(config.integer_or({"first_k_dense_replace"}, first_dense, 0), num_layers);
}

TensorNames names_of_experts(const std::string& block, const BlockNames& own) {
  return names_in(block, own, "gate_proj", "up_proj", "down_proj");
}

TensorNames names_of_w_experts(const std::string& block, const BlockNames& own) {
  return names_in(block, own, "w1", "w3", "w2");
}

void name_fused_experts(TensorNames& names, const std::string& block) {
  names.fused_gate_up = block + ".experts.gate_up_proj";
  names.fused_down = block + ".experts.down_proj";
}

void name_shared_expert(TensorNames& names, const std::string& prefix) {
  names.shared_gate = prefix + ".gate_proj.weight";
  names.shared_up = prefix + ".up_proj.weight";
  names.shared_down = prefix + ".down_proj.weight";
}

}  // namespace switchyard
