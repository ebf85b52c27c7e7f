// src/weights/family_llama4.cc -- sigmoid top-1 with the weight on the input; a shared expert as
// wide as a routed one; experts in one tensor, transposed. The text model, alone or nested.
#include "weights/family.h"

namespace switchyard {

FamilyLayers describe_llama4(const ConfigReader& config) {
  FamilyLayers f;
  f.config = common_config(config);
  f.config.gate.scoring = Scoring::Sigmoid;
  f.config.router_weight_on_input = true;
  f.num_layers = num_layers_of(config);
  f.moe_layers = config.integers_or_none({"moe_layers"});
  if (f.moe_layers.empty())
    f.moe_layers =
        every_nth_layer(config.integer_or({"interleave_moe_layer_step"}, 1), f.num_layers);
  f.module = "model.layers.{layer}.feed_forward";
  f.names.router = f.module + ".router.weight";
  f.names.fused_gate_up = f.module + ".experts.gate_up_proj";
  f.names.fused_down = f.module + ".experts.down_proj";
  f.names.fused_transposed = true;
  add_shared_experts(f, 1, f.module + ".shared_expert");
  return f;
}

}  // namespace switchyard
