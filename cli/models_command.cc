// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/models_command.cc -- switchyard models: what a checkpoint holds; what is known by name.
#include <nlohmann/json.hpp>

#include "commands.h"
#include "switchyard/checkpoint.h"
#include "switchyard/error.h"

namespace switchyard::cli {
namespace {

struct ModelsArguments {
  std::string model, layer_json;
  bool json = false;
};

const char* scoring_name(Scoring scoring) {
  switch (scoring) {
    case Scoring::Softmax: return "softmax";
    case Scoring::SoftmaxOfTopK: return "softmax of top-k";
    case Scoring::Sigmoid: return "sigmoid";
    case Scoring::SparseMixer: return "sparse mixer";
    case Scoring::SqrtSoftplus: return "sqrt-softplus";
  }
  return "";
}

// Parts that most layers have not.
std::vector<std::string> unusual_parts(const MoeConfig& c) {
  std::vector<std::string> parts;
  const auto add_if = [&](bool has, const char* part) {
    if (has) parts.emplace_back(part);
  };
  add_if(c.gate.vocabulary > 0, "experts by token id");
  add_if(c.gate.num_zero_experts > 0, "zero experts");
  add_if(c.gate.logit_softcap > 0, "capped logits");
  add_if(c.gate.expert_scale, "expert scales");
  add_if(c.gate.rms_of_hidden, "router on normed hidden states");
  add_if(c.shared.num_scored > 0, "scored shared experts");
  add_if(c.shared.activation.has_value() && c.shared_activation() != c.activation,
         "shared experts with another activation");
  add_if(c.path.latent > 0, "latent experts");
  add_if(c.path.input_norm, "norm before the experts");
  add_if(c.path.output_norm, "norm after the experts");
  add_if(c.expert_bias, "expert biases");
  add_if(c.router_bias, "router bias");
  add_if(c.router_weight_on_input, "weight on the input");
  return parts;
}

nlohmann::json json_of(const MoeConfig& c) {
  return {{"hidden", c.hidden},
          {"intermediate", c.intermediate},
          {"experts", c.num_experts},
          {"top_k", c.top_k},
          {"activation", activation_name(c.activation.kind)},
          {"scoring", scoring_name(c.gate.scoring)},
          {"router_dtype", c.router_f32 ? "f32" : "bf16"},
          {"shared_intermediate", c.shared.intermediate},
          {"unusual", unusual_parts(c)},
          {"bytes", weight_bytes(c, 1)},
          {"description", describe(c)}};
}

std::string listed(const std::vector<std::string>& parts) {
  return parts.empty() ? "-" : fmt::format("{}", fmt::join(parts, ", "));
}

// A listing goes on where loading would not.
std::string stored_format(const Checkpoint& checkpoint, int64_t layer) {
  try {
    return checkpoint.stored_format(layer);
  } catch (const Error& e) {
    if (e.code() != Errc::Unsupported) return "missing";
    const auto& method = checkpoint.quant_method();
    return method.empty() ? "unsupported" : fmt::format("unsupported ({})", method);
  }
}

// What --weights native makes of the experts; bf16 where that is all there is, or nothing can be read.
ExpertFormat native_format(const Checkpoint& checkpoint, int64_t layer) {
  try {
    return checkpoint.native_format(layer);
  } catch (const Error&) {
    return {};
  }
}

int show_checkpoint(const ModelsArguments& a) {
  const auto checkpoint = Checkpoint::open(a.model, a.layer_json);
  if (a.json) {
    nlohmann::json layers = nlohmann::json::array();
    for (const int64_t layer : checkpoint->moe_layers()) {
      const auto config = checkpoint->config(layer);
      const ExpertFormat native = native_format(*checkpoint, layer);
      auto entry = json_of(config);
      entry["layer"] = layer;
      entry["module"] = checkpoint->module_path(layer);
      entry["stored"] = stored_format(*checkpoint, layer);
      entry["native_dtype"] = dtype_name(native.dtype);
      entry["native_bytes"] = weight_bytes(config, 1, native);
      layers.push_back(std::move(entry));
    }
    const nlohmann::json all = {{"family", checkpoint->family()},
                                {"num_layers", checkpoint->num_layers()},
                                {"moe_layers", layers}};
    say_json(all);
    return kGood;
  }
  say("family  {}\nlayers  {}, {} of them MoE\n\n", checkpoint->family(), checkpoint->num_layers(),
      checkpoint->moe_layers().size());
  Table table({"layer", "<module", "<stored as", "<router", "<scoring", "<activation", "in memory",
               "native", "<unusual", "<what it computes"});
  for (const int64_t layer : checkpoint->moe_layers()) {
    const auto config = checkpoint->config(layer);
    table.add({std::to_string(layer), checkpoint->module_path(layer),
               stored_format(*checkpoint, layer), config.router_f32 ? "f32" : "bf16",
               scoring_name(config.gate.scoring), activation_name(config.activation.kind),
               human_bytes(weight_bytes(config, 1)),
               human_bytes(weight_bytes(config, 1, native_format(*checkpoint, layer))),
               listed(unusual_parts(config)), describe(config)});
  }
  say("{}", table.text());
  return kGood;
}

int show_known(bool as_json) {
  if (as_json) {
    nlohmann::json shapes = nlohmann::json::object();
    for (const auto& p : presets()) shapes[p.name] = json_of(p.config);
    say_json({{"families", known_families()}, {"presets", shapes}});
    return kGood;
  }
  say("families of checkpoints (--model):\n");
  for (const auto& name : known_families()) say("  {}\n", name);
  say("\npresets (--preset), weights of one layer:\n");
  Table table({"<  name", "weights", "<what it computes"});
  for (const auto& p : presets())
    table.add({"  " + p.name, human_bytes(weight_bytes(p.config, 1)), describe(p.config)});
  say("{}", table.text());
  return kGood;
}

}  // namespace

Command add_models(CLI::App& app) {
  auto a = std::make_shared<ModelsArguments>();
  auto& c = *app.add_subcommand(
      "models", "Show the MoE layers of a checkpoint, or the known families and presets");
  add_value(c, "--model", a->model, "DIR", "Folder of a checkpoint");
  add_value(c, "--config", a->layer_json, "layer.json",
            "Describes the layer by hand (docs/guide/checkpoints.md)");
  c.add_flag("--json", a->json, "Print one JSON object");
  c.footer("Example:\n  switchyard models --model data/tiny-code-moe");
  return [a] { return a->model.empty() ? show_known(a->json) : show_checkpoint(*a); };
}

}  // namespace switchyard::cli
