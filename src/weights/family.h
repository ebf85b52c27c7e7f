// src/weights/family.h -- what a checkpoint family says: which layers are MoE layers, what they
// compute, and what their tensors are called. Adding a family: docs/checkpoints.md.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/config.h"
#include "weights/config_reader.h"
#include "weights/quantization.h"

namespace switchyard {

// Tensor names as templates: {layer} and {expert} stand for numbers. Empty: there is no such
// tensor.
struct TensorNames {
  std::string router;           // [E, H]
  std::string router_bias;      // [E]
  std::string correction_bias;  // [E] or [1, E]

  std::string expert_gate;  // [I, H], one tensor per expert
  std::string expert_up;    // [I, H]; empty for an activation without a gate
  std::string expert_down;  // [H, I]

  std::string fused_gate_up;       // [E, 2I, H], all experts in one tensor; read where it exists
  std::string fused_down;          // [E, H, I]
  std::string fused_gate_up_bias;  // [E, 2I]
  std::string fused_down_bias;     // [E, H]
  bool fused_transposed = false;   // [E, H, 2I] and [E, I, H] instead
  bool fused_interleaved = false;  // gate and up alternate along 2I instead of standing in halves

  std::string shared_gate;         // [Is, H]
  std::string shared_up;           // [Is, H]
  std::string shared_down;         // [H, Is]
  std::string shared_expert_gate;  // [1, H]
};

struct FamilyLayers {
  MoeConfig config;
  TensorNames names;
  Quantization quantization = undeclared_quantization();
  std::string module = "model.layers.{layer}.mlp";  // in transformers
  int64_t num_layers = 0;
  std::vector<int64_t> moe_layers;
};

struct Family {
  std::string_view model_type;
  FamilyLayers (*describe)(const ConfigReader& config);
};

// One function per family or per group that shares a scheme; each in a file of its own.
FamilyLayers describe_qwen2_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_moe(const ConfigReader& config);
FamilyLayers describe_qwen3_next(const ConfigReader& config);
FamilyLayers describe_mixtral(const ConfigReader& config);
FamilyLayers describe_olmoe(const ConfigReader& config);
FamilyLayers describe_deepseek_v2(const ConfigReader& config);
FamilyLayers describe_deepseek_v3(const ConfigReader& config);
FamilyLayers describe_dots1(const ConfigReader& config);
FamilyLayers describe_ernie4_5_moe(const ConfigReader& config);
FamilyLayers describe_glm4_moe(const ConfigReader& config);
FamilyLayers describe_gpt_oss(const ConfigReader& config);
FamilyLayers describe_granitemoe(const ConfigReader& config);
FamilyLayers describe_hunyuan_v1_moe(const ConfigReader& config);
FamilyLayers describe_jamba(const ConfigReader& config);
FamilyLayers describe_llama4(const ConfigReader& config);
FamilyLayers describe_phimoe(const ConfigReader& config);

// THE list of families.
std::span<const Family> families();

// A layer described by hand (layer.json).
FamilyLayers describe_by_hand(const ConfigReader& layer);

// ---- pieces that families share

// hidden_size, experts, top-k and expert width in every spelling known; activation by `hidden_act`.
MoeConfig common_config(const ConfigReader& config);
int64_t num_layers_of(const ConfigReader& config);
// first, first + 1, ... num_layers - 1.
std::vector<int64_t> layers_from(int64_t first, int64_t num_layers);
// `<prefix>.experts.{expert}.<gate>.weight` and so on, and the fused names beside them.
void name_experts(TensorNames& names, const std::string& prefix, const char* gate, const char* up,
                  const char* down);
void name_shared_expert(TensorNames& names, const std::string& prefix);
// `number` experts as wide as a routed one, as one wider expert.
void add_shared_experts(FamilyLayers& family, int64_t number, const std::string& prefix);
// first, first + step, ... while the model has such a layer.
std::vector<int64_t> every_layer_of(int64_t first, int64_t step, int64_t num_layers);
// The last layer of each `step` layers.
std::vector<int64_t> every_nth_layer(int64_t step, int64_t num_layers);

}  // namespace switchyard
