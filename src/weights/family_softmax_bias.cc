// src/weights/family_softmax_bias.cc -- softmax over all experts, a correction bias for the choice.
#include <algorithm>

#include "weights/family_parts.h"

namespace switchyard {
namespace {

// Weights divided by their sum or a floor.
void use_ernie_gate(GateConfig& gate, const ConfigReader& config) {
  gate.correction_bias = config.boolean_or({"moe_use_aux_free"}, true);
  gate.renormalize = gate.clamp_renormalizer = true;
  gate.renormalize_epsilon = static_cast<float>(config.number_or({"moe_norm_min"}, 1e-12));
}

struct LayerRange {
  int64_t start, end, step;
};

// MoE layers from one index to another in steps.
std::vector<int64_t> layers_in(const LayerRange& range, int64_t num_layers) {
  const int64_t end = range.end == -1 ? num_layers : std::min(num_layers - 1, range.end) + 1;
  auto layers = every_nth_layer(range.step, end);
  std::erase_if(layers, [&](int64_t layer) { return layer < range.start; });
  return layers;
}

// The text experts' entry of [text, image], or the one there is.
int64_t of_text(const ConfigReader& config, const char* key, std::optional<int64_t> absent = {}) {
  if (!config.is_list(key))
    return absent ? config.integer_or({key}, *absent) : config.integer({key});
  return config.integer_of_layers({key}, 1).front();
}

}  // namespace

FamilyLayers describe_ernie4_5_moe(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  use_ernie_gate(f.config.gate, config);
  add_shared_experts(f.config, num_shared_experts(config, 2));
  f.moe_layers = layers_in({config.integer_or({"moe_layer_start_index"}, 1),
                            config.integer_or({"moe_layer_end_index"}, -1),
                            config.integer_or({"moe_layer_interval"}, 1)},
                           f.num_layers);
  for (const char* bias :
       {".moe_statics.e_score_correction_bias", ".gate.moe_statics.e_score_correction_bias"})
    f.forms.push_back(
        names_of_experts(kMlp, {.correction_bias = bias, .shared = ".shared_experts"}));
  return f;
}

// The text experts; those of images, their router and the second row of the bias are left out.
FamilyLayers describe_ernie4_5_vl_moe(const ConfigReader& config) {
  FamilyLayers f;
  MoeConfig& c = f.config;
  c.hidden = config.integer({"hidden_size"});
  c.intermediate = of_text(config, "moe_intermediate_size");
  c.num_experts = of_text(config, "moe_num_experts");
  c.top_k = config.integer({"moe_k", "num_experts_per_tok"});
  c.activation = activation_of(config, {"hidden_act"}, "silu");
  use_ernie_gate(c.gate, config);
  add_shared_experts(c, num_shared_experts(config, 2));
  f.num_layers = num_layers_of(config);
  f.moe_layers = config.has({"mlp_layer_types"})
                     ? sparse_layers(config, f.num_layers, 1)
                     : layers_in({of_text(config, "moe_layer_start_index", 1),
                                  of_text(config, "moe_layer_end_index", -1),
                                  config.integer_or({"moe_layer_interval"}, 1)},
                                 f.num_layers);
  TensorNames hub =
      names_of_experts(kMlp, {.correction_bias = ".moe_statics.e_score_correction_bias"});
  hub.router_transposed = true;
  hub.correction_rows = 2;
  f.forms = {hub,
             names_of_experts(cat(kMlp, ".text_moe"),
                              {.correction_bias = ".gate.moe_statics.e_score_correction_bias"})};
  for (TensorNames& names : f.forms) name_shared_expert(names, cat(kMlp, ".shared_experts"));
  f.module = f.nested_module = cat("model.language_model.", kMlp);
  f.left_out = {cat(kMlp, ".gate.weight_1")};
  f.num_left_out_experts = c.num_experts;
  return f;
}

// Never renormalised; zero experts return their input. The other MLPs of a layer are dense.
FamilyLayers describe_longcat_flash(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  GateConfig& gate = f.config.gate;
  gate.correction_bias = true;
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 6.0);
  gate.num_zero_experts = config.integer_or({"zero_expert_num"}, 256, 0);
  f.config.router_bias = config.boolean_or({"router_bias"}, false);
  // transformers counts both halves of a layer as layers.
  f.num_layers = config.integer({"num_layers"});
  f.moe_layers = layers_from(0, f.num_layers);
  f.forms = {names_of_experts(kMlp, {.router = ".router.classifier.weight",
                                     .correction_bias = ".router.e_score_correction_bias"})};
  f.forms.front().router_bias = cat(kMlp, ".router.classifier.bias");
  return f;
}

}  // namespace switchyard
