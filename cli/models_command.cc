// cli/models_command.cc -- switchyard models: what a checkpoint holds; what is known by name.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "console.h"
#include "switchyard/checkpoint.h"
#include "switchyard/error.h"

namespace switchyard::cli {
namespace {

struct ModelsArguments {
  std::string model, layer_json;
  bool json = false;
};

nlohmann::json json_of(const MoeConfig& c) {
  return {{"hidden", c.hidden},
          {"intermediate", c.intermediate},
          {"experts", c.num_experts},
          {"top_k", c.top_k},
          {"activation", activation_name(c.activation.kind)},
          {"shared_intermediate", c.shared.intermediate},
          {"bytes", weight_bytes(c, 1)},
          {"description", describe(c)}};
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

int show_checkpoint(const ModelsArguments& a) {
  const auto checkpoint = Checkpoint::open(a.model, a.layer_json);
  if (a.json) {
    nlohmann::json layers = nlohmann::json::array();
    for (const int64_t layer : checkpoint->moe_layers()) {
      auto entry = json_of(checkpoint->config(layer));
      entry["layer"] = layer;
      entry["module"] = checkpoint->module_path(layer);
      entry["stored"] = stored_format(*checkpoint, layer);
      layers.push_back(std::move(entry));
    }
    const nlohmann::json all = {{"family", checkpoint->family()},
                                {"num_layers", checkpoint->num_layers()},
                                {"moe_layers", layers}};
    fmt::print("{}\n", all.dump());
    return kGood;
  }
  fmt::print("family  {}\nlayers  {}, {} of them MoE\n\n", checkpoint->family(),
             checkpoint->num_layers(), checkpoint->moe_layers().size());
  Table table({"layer", "<module", "<stored as", "in memory", "<what it computes"});
  for (const int64_t layer : checkpoint->moe_layers()) {
    const auto config = checkpoint->config(layer);
    table.add({std::to_string(layer), checkpoint->module_path(layer),
               stored_format(*checkpoint, layer),
               human_bytes(static_cast<double>(weight_bytes(config, 1))), describe(config)});
  }
  fmt::print("{}", table.text());
  return kGood;
}

int show_known(bool as_json) {
  if (as_json) {
    nlohmann::json shapes = nlohmann::json::object();
    for (const auto& p : presets()) shapes[p.name] = json_of(p.config);
    fmt::print("{}\n", nlohmann::json{{"families", known_families()}, {"presets", shapes}}.dump());
    return kGood;
  }
  fmt::print("families of checkpoints (--model):\n");
  for (const auto& name : known_families()) fmt::print("  {}\n", name);
  fmt::print("\npresets (--preset), weights of one layer:\n");
  Table table({"<  name", "weights", "<what it computes"});
  for (const auto& p : presets())
    table.add({"  " + p.name, human_bytes(static_cast<double>(weight_bytes(p.config, 1))),
               describe(p.config)});
  fmt::print("{}", table.text());
  return kGood;
}

}  // namespace

Command add_models(CLI::App& app) {
  auto a = std::make_shared<ModelsArguments>();
  auto& c = *app.add_subcommand(
      "models", "Show the MoE layers of a checkpoint, or the known families and presets");
  c.add_option("--model", a->model, "Folder of a checkpoint")->type_name("DIR");
  c.add_option("--config", a->layer_json, "Describes the layer by hand (docs/checkpoints.md)")
      ->type_name("layer.json");
  c.add_flag("--json", a->json, "Print one JSON object");
  c.footer("Example:\n  switchyard models --model data/tiny-code-moe");
  return [a] { return a->model.empty() ? show_known(a->json) : show_checkpoint(*a); };
}

}  // namespace switchyard::cli
