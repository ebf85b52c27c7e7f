// src/weights/family_softmax_groups.cc -- softmax over all experts, perhaps inside the best groups;
// scaled; shared experts.
#include "weights/family_parts.h"

namespace switchyard {

// Greedy, or greedy inside the groups with the best expert; never renormalised.
FamilyLayers describe_deepseek_v2(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  GateConfig& gate = f.config.gate;
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  const std::string method = config.text_or({"topk_method"}, "greedy");
  // "gready" is how the first published configs spell it.
  SWITCHYARD_REQUIRE(method == "greedy" || method == "gready" || method == "group_limited_greedy",
                     Unsupported, "checkpoint: ", config.file(), ", topk_method=", method,
                     ", deepseek_v2 has greedy and group_limited_greedy.");
  if (method == "group_limited_greedy") {
    gate.group_score = GroupScore::Max;
    gate.num_groups = config.integer({"n_group"});
    gate.num_groups_kept = config.integer({"topk_group"});
  } else {
    // Groups are not read then, whatever their number.
    for (const char* key : {"n_group", "topk_group"})
      if (const int64_t groups = config.integer_or({key}, 0, 0); groups > 0)
        f.unread.push_back({key, std::to_string(groups)});
  }
  f.moe_layers = layers_from(config.integer_or({"first_k_dense_replace"}, 0, 0), f.num_layers);
  add_shared_experts(f.config, num_shared_experts(config, 2));
  f.forms = {names_of_experts(kMlp, {.shared = ".shared_experts"})};
  return f;
}

// Groups by their two best; renormalised.
FamilyLayers describe_mistral4(const ConfigReader& config) {
  FamilyLayers f = common_layers(config);
  GateConfig& gate = f.config.gate;
  gate.renormalize = config.boolean_or({"norm_topk_prob"}, true);
  gate.renormalize_epsilon = 1e-20f;
  gate.scale = scale_of(config, {"routed_scaling_factor"}, 1.0);
  gate.num_groups = config.integer_or({"n_group"}, 1, 1);
  gate.num_groups_kept = config.integer_or({"topk_group"}, 1, 1);
  f.moe_layers = layers_from(config.integer_or({"first_k_dense_replace"}, 0, 0), f.num_layers);
  add_shared_experts(f.config, num_shared_experts(config, 1));
  f.forms = {names_of_experts(kMlp, {.shared = ".shared_experts"})};
  return f;
}

}  // namespace switchyard
