// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/config.cc -- what one layer computes, as plain data: include/switchyard/config.h.
#include "switchyard/config.h"

#include "bind.h"

namespace switchyard::python {
namespace {

void bind_enums(nb::module_& m) {
  nb::enum_<Scoring>(m, "Scoring", "How router logits become scores.")
      .value("Softmax", Scoring::Softmax, "over all E experts, before the choice")
      .value("SoftmaxOfTopK", Scoring::SoftmaxOfTopK, "over the K chosen logits")
      .value("Sigmoid", Scoring::Sigmoid, "of each logit alone")
      .value("SparseMixer", Scoring::SparseMixer,
             "phimoe: K = 2 masked softmaxes, each over logits close to the maximum")
      .value("SqrtSoftplus", Scoring::SqrtSoftplus,
             "DeepSeek-V4: sqrt(log(1 + exp(logit))) of each logit alone");
  nb::enum_<GroupScore>(m, "GroupScore", "How a group of experts is scored.")
      .value("Max", GroupScore::Max, "DeepSeek-V2, group_limited_greedy")
      .value("Top2Sum", GroupScore::Top2Sum, "DeepSeek-V3: sum of the two best biased scores");
}

void bind_activation(nb::module_& m) {
  nb::class_<Activation> activation(
      m, "Activation",
      "The function between the two GEMMs of an expert, by its name: silu, gelu, "
      "gelu_tanh, clamped_swiglu, relu2, silu_of_clamped, clamped_silu, situ, "
      "relu2_gated. Raises Unsupported with the accepted names.");
  bind_equality(activation);
  activation
      .def(
          "__init__",
          [](Activation* self, const std::string& name, float alpha, float limit) {
            Activation made = activation_from_name(name);
            made.alpha = alpha;
            made.limit = limit;
            new (self) Activation(made);
          },
          "name"_a = "silu", "alpha"_a = Activation{}.alpha, "limit"_a = Activation{}.limit)
      .def_prop_ro("name", [](const Activation& a) { return activation_name(a.kind); })
      .def_ro("alpha", &Activation::alpha, "clamped_swiglu; situ: > 0")
      .def_ro("limit", &Activation::limit,
              "clamped_swiglu, silu_of_clamped, clamped_silu, situ; > 0")
      .def_prop_ro("gated", &Activation::gated, "W1 has 2I rows, else I.")
      .def("__repr__", [](const Activation& a) {
        return std::string("Activation('") + activation_name(a.kind) +
               "', alpha=" + std::to_string(a.alpha) + ", limit=" + std::to_string(a.limit) + ")";
      });
  nb::implicitly_convertible<nb::str, Activation>();
}

void bind_gate_config(nb::module_& m) {
  nb::class_<GateConfig> gate(
      m, "GateConfig",
      "The gate: logits f32 [T, E] -> the K best experts of each token and their weights. Ties go "
      "to "
      "the lowest expert id; ids come in descending order of the score that chose them.");
  bind_fields(
      gate, Field{"scoring", &GateConfig::scoring, "How logits become scores."},
      Field{"renormalize", &GateConfig::renormalize, "Divide the K weights by their sum."},
      Field{"renormalize_epsilon", &GateConfig::renormalize_epsilon, "Added to that sum."},
      Field{"clamp_renormalizer", &GateConfig::clamp_renormalizer,
            "The sum is at least renormalize_epsilon instead."},
      Field{"scale", &GateConfig::scale, "routed_scaling_factor, the last factor of the weights."},
      Field{"correction_bias", &GateConfig::correction_bias,
            "f32 [E] added to the scores for the choice only."},
      Field{"num_groups", &GateConfig::num_groups, "E is divided into so many consecutive groups."},
      Field{"num_groups_kept", &GateConfig::num_groups_kept,
            "The choice is made inside the best of them."},
      Field{"group_score", &GateConfig::group_score, "How groups are scored."},
      Field{"jitter_epsilon", &GateConfig::jitter_epsilon,
            "SparseMixer: logits further than 2 eps (relative) are masked."},
      Field{"logit_softcap", &GateConfig::logit_softcap, "c > 0: logits become c tanh(logit / c)."},
      Field{"vocabulary", &GateConfig::vocabulary,
            "V > 0: a token's id in [0, V) chooses its experts, by a table."},
      Field{"num_zero_experts", &GateConfig::num_zero_experts,
            "Z more experts, ids E to E + Z - 1, that return their input."},
      Field{"expert_scale", &GateConfig::expert_scale, "f32 [E], the very last factor."},
      Field{"rms_of_hidden", &GateConfig::rms_of_hidden, "Logits are of hidden / rms(hidden)."});
  bind_equality(gate);
}

void bind_parts(nb::module_& m) {
  nb::class_<SharedExpertConfig> shared(m, "SharedExpertConfig",
                                        "Experts that see every token; their sum joins in fp32.");
  bind_fields(
      shared,
      Field{"intermediate", &SharedExpertConfig::intermediate,
            "0: none. Several shared experts are one wider expert."},
      Field{"sigmoid_gated", &SharedExpertConfig::sigmoid_gated,
            "Scaled by sigmoid(hidden . shared_gate)."},
      Field{"activation", &SharedExpertConfig::activation, "None: that of the routed experts."},
      Field{"num_scored", &SharedExpertConfig::num_scored,
            "S > 0: of S experts side by side, each weighed by the gate."});
  nb::class_<RoutedPathConfig> path(
      m, "RoutedPathConfig",
      "What stands around the routed experts: rows = down(norm(hidden)) "
      "go to them, up(norm(their sum)) comes back.");
  bind_fields(
      path, Field{"input_norm", &RoutedPathConfig::input_norm, "RMS norm with a weight [H]."},
      Field{"latent", &RoutedPathConfig::latent, "L > 0: experts work on rows of L."},
      Field{"output_norm", &RoutedPathConfig::output_norm, "RMS norm of the sum, [L] or [H]."},
      Field{"norm_epsilon", &RoutedPathConfig::norm_epsilon, "Also of GateConfig.rms_of_hidden."});
}

}  // namespace

void bind_config(nb::module_& m) {
  bind_enums(m);
  bind_activation(m);
  bind_gate_config(m);
  bind_parts(m);
  nb::class_<MoeConfig> config(
      m, "MoeConfig", "One MoE layer: H hidden, I intermediate, E experts, K experts per token.");
  bind_fields(
      config, Field{"hidden", &MoeConfig::hidden, "H, a multiple of 8."},
      Field{"intermediate", &MoeConfig::intermediate, "I of one routed expert, a multiple of 8."},
      Field{"num_experts", &MoeConfig::num_experts, "E, over all ranks, at most 4096."},
      Field{"top_k", &MoeConfig::top_k, "K >= 1; at most E where the gate chooses."},
      Field{"activation", &MoeConfig::activation, "An Activation or its name."},
      Field{"gate", &MoeConfig::gate, "How experts are chosen."},
      Field{"shared", &MoeConfig::shared, "Shared experts."},
      Field{"expert_bias", &MoeConfig::expert_bias,
            "b1 [E, 2I] joins the sums before the activation, b2 [E, H] before GEMM2's rounding."},
      Field{"router_bias", &MoeConfig::router_bias, "f32 [E], added to the logits."},
      Field{"router_f32", &MoeConfig::router_f32, "The router's weight is f32, not bf16."},
      Field{"f32_sums", &MoeConfig::f32_sums, "The layer's output is f32 [T, H]."},
      Field{"path", &MoeConfig::path, "What stands around the routed experts."},
      Field{"router_weight_on_input", &MoeConfig::router_weight_on_input,
            "Llama-4: the router weight scales GEMM1's sums."},
      Field{"ids_are_given", &MoeConfig::ids_are_given,
            "No gate and no router weights: every call brings ids and weights. K may exceed E."});
  config
      .def(
          "validate", [](const MoeConfig& c) { validate(c); },
          "Raises ShapeMismatch or Unsupported for a layer that no strategy can run.")
      .def("__repr__", [](const MoeConfig& c) { return "<MoeConfig " + describe(c) + ">"; });
}

}  // namespace switchyard::python
