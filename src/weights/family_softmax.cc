// src/weights/family_softmax.cc -- softmax over all experts, then top-k; no shared expert.
#include "weights/family_parts.h"

namespace switchyard {

// mixtral, minimax: always renormalised; w1 is gate, w3 is up.
FamilyLayers describe_mixtral(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.config.gate.renormalize = true;
  f.forms = {names_of_w_experts(kSparseMoe), names_of_experts(kMlp)};
  return f;
}

// olmoe, flex_olmo: as it comes.
FamilyLayers describe_olmoe(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.config.gate.renormalize = config.boolean_or({"norm_topk_prob"}, false);
  f.forms = {names_of_experts(kMlp)};
  return f;
}

// Every few layers.
FamilyLayers describe_jamba(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  f.moe_layers = every_layer_of(config.integer_or({"expert_layer_offset"}, 1),
                                config.integer_or({"expert_layer_period"}, 2), f.num_layers);
  const std::string block = "layers.{layer}.feed_forward";
  f.module = "model." + block;
  f.forms = {names_of_experts(block, {.router = ".router.weight"})};
  return f;
}

// The experts of a layer stand below each other in one matrix. Weights are divided by their 1-norm,
// or by nothing where the exponent is null.
FamilyLayers describe_dbrx(const ConfigReader& config) {
  const auto ffn = config.object({"ffn_config"});
  SWITCHYARD_REQUIRE(ffn.has_value(), BadFile, "checkpoint: ", config.file(),
                     ", ffn_config=nothing, dbrx describes its experts there.");
  FamilyLayers f;
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(0, f.num_layers);
  MoeConfig& c = f.config;
  c.hidden = config.integer({"d_model", "hidden_size"});
  c.intermediate = ffn->integer({"ffn_hidden_size"});
  c.num_experts = ffn->integer({"moe_num_experts"});
  c.top_k = ffn->integer({"moe_top_k"});
  if (const auto act = ffn->object({"ffn_act_fn"}))
    c.activation = activation_of(*act, {"name"}, "silu");
  const double norm = ffn->number_or({"moe_normalize_expert_weights"}, 1.0, 0.0);
  SWITCHYARD_REQUIRE(norm == 1 || norm == 0, Unsupported, "checkpoint: ", config.file(),
                     ", moe_normalize_expert_weights=", norm,
                     ", dbrx computes with 1 or null. Use one of these.");
  c.gate.renormalize = norm == 1;
  const std::string block = "blocks.{layer}.ffn";
  f.module = "transformer." + block;
  TensorNames names;
  names.router = block + ".router.layer.weight";
  names.stacked_gate = block + ".experts.mlp.w1";
  names.stacked_up = block + ".experts.mlp.v1";
  names.fused_down = block + ".experts.mlp.w2";
  names.flat_stacks = true;
  f.forms = {names};
  return f;
}

}  // namespace switchyard
