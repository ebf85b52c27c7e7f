// src/weights/block_search.cc
#include "weights/block_search.h"

#include <algorithm>
#include <array>

#include "base/require.h"
#include "weights/name_template.h"
#include "weights/text.h"

namespace switchyard {
namespace {

// Components of names of other models beside the text model: drafts of later tokens, speech,
// images.
constexpr std::array kOtherModels = {"mtp",    "nextn",  "draft",  "eagle",
                                     "talker", "visual", "vision", "audio"};

bool is_another_model(std::string_view prefix) {
  return std::ranges::any_of(split(prefix, '.'), [](std::string_view component) {
    return component == "code_predictor" || std::ranges::any_of(kOtherModels, [&](auto other) {
             return component.starts_with(other);
           });
  });
}

// How many of a form's tensors the file has.
int count_present(const CheckpointFiles& files, const std::string& prefix, const TensorNames& n,
                  int64_t layer) {
  int count = 0;
  for (const std::string* name :
       {&n.router_scale, &n.router_bias, &n.correction_bias, &n.expert_scale, &n.global_scale,
        &n.token_experts, &n.expert_down, &n.fused_gate_up, &n.fused_down, &n.stacked_up,
        &n.shared_down, &n.shared_gate_up, &n.shared_expert_gate, &n.input_norm, &n.path_down,
        &n.output_norm}) {
    const std::string full = prefix + fill_template(*name, layer);
    // A quantised tensor has its own name or one of these.
    for (const char* suffix : {"", "_packed", "_blocks", "_scale"})
      if (!name->empty() && files.has(full + suffix)) {
        ++count;
        break;
      }
  }
  return count;
}

}  // namespace

BlockSearch::BlockSearch(const CheckpointFiles& files, const FamilyLayers& family) {
  files.for_each_name([&](const std::string& name) {
    for (size_t form = 0; form < family.forms.size(); ++form) {
      const auto match = match_tail(name, family.forms[form].router);
      if (!match) continue;
      std::string prefix = name.substr(0, match->prefix_length);
      if (!is_another_model(prefix))
        blocks_[match->layer].push_back({std::move(prefix), form, name});
    }
  });
  // Forms that call the router alike: the one with more of its tensors there, the first of equals.
  for (auto& [layer, blocks] : blocks_) {
    std::vector<FoundBlock> best;
    for (auto& block : blocks) {
      const auto same = std::find_if(best.begin(), best.end(),
                                     [&](const auto& b) { return b.router == block.router; });
      const auto count = [&, layer = layer](const FoundBlock& b) {
        return count_present(files, b.prefix, family.forms[b.form], layer);
      };
      if (same == best.end())
        best.push_back(std::move(block));
      else if (count(block) > count(*same))
        *same = std::move(block);
    }
    const auto whole = std::find_if(best.begin(), best.end(), [&](const auto& block) {
      return family.names_are_whole && block.prefix.empty();
    });
    blocks = whole != best.end() ? std::vector{*whole} : std::move(best);
  }
}

const FoundBlock* BlockSearch::find(int64_t layer) const {
  const auto at = blocks_.find(layer);
  if (at == blocks_.end()) return nullptr;
  const auto& blocks = at->second;
  std::vector<std::string> routers;
  for (const auto& block : blocks) routers.push_back(block.router);
  SWITCHYARD_REQUIRE(blocks.size() == 1, BadFile, "checkpoint: layer ", layer,
                     ", its router could be each of ", joined(routers),
                     ". Name the right one in a layer.json and pass it with --config.");
  return &blocks.front();
}

}  // namespace switchyard
