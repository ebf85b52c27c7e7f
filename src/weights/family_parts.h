// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/family_parts.h -- pieces that families share; one file per scheme.
#pragma once

#include "base/require.h"
#include "weights/family.h"

namespace switchyard {

// hidden_size, experts, top-k and expert width in every spelling known; activation by `hidden_act`;
// as many layers as the model has, all of them MoE layers.
FamilyLayers common_layers(const ConfigReader& config);
int64_t num_layers_of(const ConfigReader& config);
// n in every spelling; 0 for null.
int64_t num_shared_experts(const ConfigReader& config, int64_t fallback);
// `number` experts as wide as a routed one, as one wider expert.
void add_shared_experts(MoeConfig& config, int64_t number);
inline void add_shared_experts(MoeConfig& config, const ConfigReader& reader, int64_t fallback) {
  add_shared_experts(config, num_shared_experts(reader, fallback));
}
// Sigmoid scores with a correction bias, renormalised with epsilon.
void use_sigmoid_gate(GateConfig& gate, float epsilon = 1e-20f);
// norm_topk_prob, routed_scaling_factor, n_group, topk_group: true and 1 where absent.
void read_groups(GateConfig& gate, const ConfigReader& config);
// What the routing weights are multiplied by; null is 1.
float scale_of(const ConfigReader& config, ConfigReader::Keys keys, double absent);
// By name; a name that is not known is refused with file and key.
Activation activation_of(const ConfigReader& config, ConfigReader::Keys keys,
                         const std::string& absent);
// By a key's text: softmax, sigmoid, sqrtsoftplus.
Scoring scoring_from_name(const ConfigReader& config, const char* key, const char* absent);
// silu becomes `kind` with that limit; 0 leaves it as it is.
void clamp_activation(Activation& activation, ActivationKind kind, double limit);
// SiluOfClamped with the limit of swiglu_limit, 10 where it is absent.
void clamp_before_silu(Activation& activation, const ConfigReader& config);

// ---- which layers are MoE layers

// first, first + 1, ... num_layers - 1.
std::vector<int64_t> layers_from(int64_t first, int64_t num_layers);
// first, first + step, ... while the model has such a layer.
std::vector<int64_t> every_layer_of(int64_t first, int64_t step, int64_t num_layers);
// The last layer of each `step` layers.
std::vector<int64_t> every_nth_layer(int64_t step, int64_t num_layers);
// By mlp_layer_types where the config has it, else by moe_layer_freq as a list, else those from
// first_k_dense_replace on.
std::vector<int64_t> sparse_layers(const ConfigReader& config, int64_t num_layers,
                                   int64_t first_dense);

// ---- names; `block` is a template such as kMlp

inline constexpr const char* kMlp = "layers.{layer}.mlp";
inline constexpr const char* kSparseMoe = "layers.{layer}.block_sparse_moe";

// What families call differently behind the block; empty: there is no such tensor.
struct BlockNames {
  const char* router = ".gate.weight";
  const char* correction_bias = "";
  const char* shared = "";  // of name_shared_expert
};

// Of DeepSeek-V3 and most others with its gate.
inline constexpr BlockNames kNames = {.correction_bias = ".gate.e_score_correction_bias",
                                      .shared = ".shared_experts"};

// `<block>.gate.weight`, `<block>.experts.{expert}.gate_proj.weight` and so on, and the fused names
// beside them.
TensorNames names_of_experts(const std::string& block, const BlockNames& own = {});
// The same with w1, w3, w2.
TensorNames names_of_w_experts(const std::string& block, const BlockNames& own = {});
// `<block>.experts.gate_up_proj` and `<block>.experts.down_proj`.
void name_fused_experts(TensorNames& names, const std::string& block);
// `<prefix>.gate_proj.weight` and so on.
void name_shared_expert(TensorNames& names, const std::string& prefix);

// ---- families, one list for each scheme

std::vector<Family> sigmoid_families();        // family_sigmoid.cc
std::vector<Family> softmax_families();        // family_softmax.cc
std::vector<Family> top_k_softmax_families();  // family_top_k_softmax.cc

}  // namespace switchyard
