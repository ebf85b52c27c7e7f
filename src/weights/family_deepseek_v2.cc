// src/weights/family_deepseek_v2.cc -- softmax over all experts; the choice is greedy, or greedy
// inside the groups with the best expert; never renormalised, always scaled; shared experts.
#include "base/require.h"
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_deepseek_v2(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  GateConfig& gate = f.config.gate;
  gate.scale = static_cast<float>(config.number_or({"routed_scaling_factor"}, 1.0));
  const std::string method = config.text_or({"topk_method"}, "greedy");
  SWITCHYARD_REQUIRE(method == "greedy" || method == "group_limited_greedy", Unsupported,
                     "checkpoint: topk_method=", method,
                     ", deepseek_v2 has greedy and group_limited_greedy.");
  if (method == "group_limited_greedy") {
    gate.group_score = GroupScore::Max;
    gate.num_groups = config.integer({"n_group"});
    gate.num_groups_kept = config.integer({"topk_group"});
  }
  f.num_layers = num_layers_of(config);
  f.moe_layers = layers_from(config.integer_or({"first_k_dense_replace"}, 0), f.num_layers);
  const std::string mlp = "model.layers.{layer}.mlp";
  name_experts(f.names, mlp, "gate_proj", "up_proj", "down_proj");
  add_shared_experts(f, config.integer_or({"n_shared_experts"}, 2), mlp + ".shared_experts");
  return f;
}

}  // namespace switchyard
