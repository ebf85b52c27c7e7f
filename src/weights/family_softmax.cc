// src/weights/family_softmax.cc -- softmax over all experts, then top-k.
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

// The rows of all experts of a layer are one matrix. Weights are divided by their 1-norm,
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

// hunyuan_v1_moe: always renormalised; a shared expert. Sizes may be lists, one entry per layer.
FamilyLayers describe_hunyuan_v1_moe(const ConfigReader& config) {
  FamilyLayers f;
  f.num_layers = num_layers_of(config);
  const auto of_layers = [&](ConfigReader::Keys keys) {
    return config.integer_of_layers(keys, f.num_layers);
  };
  const auto widths = config.has({"moe_intermediate_size"}) ? of_layers({"moe_intermediate_size"})
                                                            : of_layers({"intermediate_size"});
  const auto experts = of_layers({"num_experts", "num_local_experts"});
  const auto chosen = of_layers({"moe_topk", "num_experts_per_tok"});
  const auto shared = config.has({"num_shared_expert"}) ? of_layers({"num_shared_expert"})
                                                        : std::vector<int64_t>(experts.size(), 1);
  const bool has_shared = config.boolean_or({"use_mixed_mlp_moe"}, true);
  f.config.hidden = config.integer({"hidden_size"});
  f.config.activation = activation_of(config, {"hidden_act"}, "silu");
  f.config.gate.renormalize = true;
  for (int64_t layer = 0; layer < f.num_layers; ++layer) {
    const auto i = static_cast<size_t>(layer);
    MoeConfig c = f.config;
    c.intermediate = widths[i];
    c.num_experts = experts[i];
    c.top_k = chosen[i];
    add_shared_experts(c, has_shared ? shared[i] : 0);
    if (layer == 0)
      f.config = c;
    else if (c != f.config)
      f.other_layers[layer] = c;
    f.moe_layers.push_back(layer);
  }
  f.forms = {names_of_experts(kMlp, {.router = ".gate.wg.weight", .shared = ".shared_mlp"})};
  // Published so, and not read: there are no groups.
  f.unread = {{"n_group", "false"}, {"topk_group", "false"}};
  return f;
}

}  // namespace switchyard
