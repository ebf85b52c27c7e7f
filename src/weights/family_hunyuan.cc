// src/weights/family_hunyuan.cc -- hunyuan_v1_moe: softmax then top-k, renormalised; a shared
// expert. Sizes may be lists, one entry per layer.
#include "weights/family_parts.h"

namespace switchyard {

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
