// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/names_test.cc -- tensors are found under every prefix and in every form of names;
// what is ambiguous, or left unread though it counts, is refused.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "switchyard/checkpoint.h"
#include "switchyard/error.h"
#include "switchyard/safetensors.h"
#include "testing/buffer.h"
#include "testing/family_configs.h"
#include "testing/temporary_folder.h"
#include "weights/family.h"

namespace switchyard {
namespace {

using nlohmann::json;
using testing::TemporaryFolder;

// A checkpoint of zeros: names, dtypes and shapes are what is tested.
class Zeros {
 public:
  void add(const std::string& name, Shape shape, DType dtype = DType::Bf16) {
    if (!name.empty()) all_[name] = {dtype, shape};
  }
  int64_t id = 0;  // every element of i64
  void write(const std::filesystem::path& path) const {
    std::vector<std::vector<std::byte>> bytes;
    std::vector<NamedTensor> named;
    for (const auto& [name, t] : all_) {
      const auto size = t.second.count() * dtype_bytes(t.first);
      bytes.emplace_back(static_cast<size_t>(size + 16));
      for (int64_t i = 0; t.first == DType::I64 && i < t.second.count(); ++i)
        std::memcpy(bytes.back().data() + i * 8, &id, 8);
      named.push_back({name, ConstTensor(bytes.back().data(), t.first, t.second)});
    }
    write_safetensors(path, named);
  }

 private:
  std::map<std::string, std::pair<DType, Shape>> all_;
};

enum class Experts { Separate, Together };

bool has(const TensorNames& n, Experts experts) {
  return experts == Experts::Separate ? !n.expert_down.empty() : !n.fused_down.empty();
}

struct Layer {
  const TensorNames& names;
  const MoeConfig& config;
  std::string prefix;
  int64_t layer;

  std::string full(const std::string& name, int64_t expert = 0) const {
    return name.empty() ? "" : prefix + fill_template(name, layer, expert);
  }
};

void add_experts(Zeros& z, const Layer& l, Experts experts) {
  const TensorNames& n = l.names;
  const MoeConfig& c = l.config;
  const int64_t e = c.num_experts, i = c.intermediate, h = c.routed_hidden(), rows = c.w1_rows();
  if (experts == Experts::Separate) {
    for (int64_t id = 0; id < e; ++id) {
      if (c.activation.gated()) z.add(l.full(n.expert_gate, id), {i, h});
      z.add(l.full(n.expert_up, id), {i, h});
      z.add(l.full(n.expert_down, id), {h, i});
    }
    return;
  }
  const bool t = n.fused != Fused::Straight;
  z.add(l.full(n.fused_gate_up), t ? Shape{e, h, rows} : Shape{e, rows, h});
  for (const auto& name : {n.stacked_gate, n.stacked_up})
    z.add(l.full(name), n.flat_stacks ? Shape{e * i, h} : Shape{e, i, h});
  z.add(l.full(n.fused_down), n.flat_stacks ? Shape{e * i, h}
                              : t           ? Shape{e, i, h}
                                            : Shape{e, h, i});
  if (!c.expert_bias) return;
  z.add(l.full(n.fused_gate_up_bias), {e, rows});
  z.add(l.full(n.fused_down_bias), {e, h});
}

void add_router(Zeros& z, const Layer& l) {
  const TensorNames& n = l.names;
  const MoeConfig& c = l.config;
  const int64_t rows = c.router_rows(), h = c.hidden;
  z.add(l.full(n.router), n.router_transposed ? Shape{h, rows} : Shape{rows, h});
  z.add(l.full(n.router_scale), {h});
  if (c.router_bias) z.add(l.full(n.router_bias), {rows});
  if (c.gate.correction_bias)
    z.add(
        l.full(n.correction_bias),
        n.correction_rows > 1 ? Shape{n.correction_rows, c.num_choices()} : Shape{c.num_choices()},
        DType::F32);
  if (c.gate.expert_scale) z.add(l.full(n.expert_scale), {rows});
  if (c.gate.expert_scale) z.add(l.full(n.global_scale), {1}, DType::F32);
  if (c.gate.vocabulary > 0)
    z.add(l.full(n.token_experts), {c.gate.vocabulary, c.top_k}, DType::I64);
}

void add_shared(Zeros& z, const Layer& l) {
  const TensorNames& n = l.names;
  const MoeConfig& c = l.config;
  const int64_t s = c.shared.num_scored, is = c.shared.intermediate, h = c.hidden;
  if (is == 0) return;
  const int64_t halves = c.shared_activation().gated() ? 2 : 1;
  const auto shape = [&](int64_t rows, int64_t cols, int64_t of) {
    return s > 0 ? Shape{s, rows, cols / of} : Shape{rows, cols};
  };
  z.add(l.full(n.shared_gate_up), s > 0 ? Shape{s, halves * is / s, h} : Shape{halves * is, h});
  if (halves == 2) z.add(l.full(n.shared_gate), s > 0 ? Shape{s, is / s, h} : Shape{is, h});
  z.add(l.full(n.shared_up), s > 0 ? Shape{s, is / s, h} : Shape{is, h});
  z.add(l.full(n.shared_down), shape(h, is, std::max<int64_t>(1, s)));
  if (c.shared.sigmoid_gated) z.add(l.full(n.shared_expert_gate), {1, h});
}

void add_path(Zeros& z, const Layer& l) {
  const RoutedPathConfig& p = l.config.path;
  const int64_t h = l.config.hidden, latent = l.config.routed_hidden();
  if (p.input_norm) z.add(l.full(l.names.input_norm), {h});
  if (p.latent > 0) z.add(l.full(l.names.path_down), {latent, h});
  if (p.output_norm) z.add(l.full(l.names.output_norm), {latent});
  if (p.latent > 0) z.add(l.full(l.names.path_up), {h, latent});
}

Zeros layer_of(const FamilyLayers& f, const TensorNames& names, const std::string& prefix,
               Experts experts) {
  Zeros z;
  for (const int64_t layer : f.moe_layers) {
    const Layer l{names, f.config_of(layer), prefix, layer};
    add_experts(z, l, experts);
    add_router(z, l);
    add_shared(z, l);
    add_path(z, l);
  }
  return z;
}

struct Model {
  explicit Model(const std::string& family) : config(testing::family_configs().at(family)) {
    config["model_type"] = family;
    layers = read_model_config(config, "config.json").layers;
    testing::write_file(folder / "config.json", config.dump());
  }
  std::unique_ptr<Checkpoint> open(const Zeros& zeros) const {
    zeros.write(folder / "model.safetensors");
    return Checkpoint::open(folder.path());
  }
  TemporaryFolder folder;
  json config;
  FamilyLayers layers;
};

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

class NamesOfFamily : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, NamesOfFamily, ::testing::ValuesIn(known_families()),
                         [](const auto& info) { return info.param; });

TEST_P(NamesOfFamily, EveryFormLoadsUnderEveryPrefix) {
  const Model model(GetParam());
  for (size_t form = 0; form < model.layers.forms.size(); ++form)
    for (const Experts experts : {Experts::Separate, Experts::Together}) {
      const TensorNames& names = model.layers.forms[form];
      if (!has(names, experts)) continue;
      for (const std::string prefix : {"", "model.", "model.language_model.", "a.b.model."}) {
        const auto checkpoint = model.open(layer_of(model.layers, names, prefix, experts));
        for (const int64_t layer : checkpoint->moe_layers()) {
          const MoeConfig config = checkpoint->config(layer);
          EXPECT_NO_THROW(validate(checkpoint->load_layer(layer, 2, 1), config, 2))
              << GetParam() << ", form " << form << ", " << prefix;
          EXPECT_EQ(checkpoint->stored_format(layer), "bf16");
        }
      }
    }
}

TEST_P(NamesOfFamily, SeveralPrefixesAreListedAndOtherModelsAreNone) {
  const Model model(GetParam());
  const TensorNames& names = model.layers.forms.front();
  const Experts experts = has(names, Experts::Separate) ? Experts::Separate : Experts::Together;
  const int64_t layer = model.layers.moe_layers.front();
  const auto with_router_under = [&](const std::string& prefix) {
    Zeros z = layer_of(model.layers, names, "model.", experts);
    add_router(z, {names, model.layers.config_of(layer), prefix, layer});
    return z;
  };
  for (const char* other : {"mtp.", "model.mtp.", "talker.model.", "model.visual.",
                            "thinker.audio_tower.", "vision_model.", "draft_model."})
    EXPECT_NO_THROW(model.open(with_router_under(other))->load_layer(layer, 1, 0)) << other;
  const auto checkpoint = model.open(with_router_under("other.model."));
  const auto message = refusal([&] { checkpoint->load_layer(layer, 1, 0); });
  for (const std::string prefix : {"model.", "other.model."})
    EXPECT_NE(message.find(" " + prefix + fill_template(names.router, layer)), std::string::npos)
        << message;
}

TEST_P(NamesOfFamily, BothFormsAtOnceAreAmbiguousOrRefused) {
  const Model model(GetParam());
  if (model.layers.forms.size() < 2) return;
  const auto& forms = model.layers.forms;
  const int64_t layer = model.layers.moe_layers.back();
  const Experts experts = has(forms[0], Experts::Separate) ? Experts::Separate : Experts::Together;
  Zeros z = layer_of(model.layers, forms[0], "model.", experts);
  add_router(z, {forms[1], model.layers.config_of(layer), "model.", layer});
  const auto checkpoint = model.open(z);
  const auto message = refusal([&] { checkpoint->load_layer(layer, 1, 0); });
  EXPECT_TRUE(message.find("could be each of") != std::string::npos ||
              message.find("is not used") != std::string::npos)
      << message;
}

TEST_P(NamesOfFamily, ANumberOfTheBlockThatIsNotReadIsRefused) {
  const Model model(GetParam());
  const TensorNames& names = model.layers.forms.front();
  const Experts experts = has(names, Experts::Separate) ? Experts::Separate : Experts::Together;
  const int64_t layer = model.layers.moe_layers.back();
  const MoeConfig& config = model.layers.config_of(layer);
  const Layer l{names, config, "model.", layer};
  std::string router = l.full(names.router),
              down = l.full(experts == Experts::Separate ? names.expert_down : names.fused_down,
                            config.num_experts);
  router.resize(router.rfind('.'));
  std::vector<std::string> unread = {router + ".a_bias", router + ".norm.weight",
                                     router + ".per_expert_scale"};
  if (!model.layers.num_left_out_experts && experts == Experts::Separate) unread.push_back(down);
  if (config.gate.vocabulary == 0) unread.push_back(router + ".tid2eid");
  if (config.shared.intermediate == 0)
    unread.push_back("model.layers." + std::to_string(layer) + ".shared_mlp.up_proj.weight");
  for (const auto& name : unread) {
    if (name.starts_with("model.layers") && !router.starts_with("model.layers")) continue;  // dbrx
    Zeros z = layer_of(model.layers, names, "model.", experts);
    z.add(name, {8});
    const auto checkpoint = model.open(z);
    const auto message = refusal([&] { checkpoint->load_layer(layer, 1, 0); });
    EXPECT_NE(message.find(name), std::string::npos) << message;
  }
  // Names that nobody knows, scales of quantised tensors and other layers do not matter.
  Zeros z = layer_of(model.layers, names, "model.", experts);
  for (const std::string& name : {router + ".weight_global_scale_", router + ".anything",
                                  std::string("model.layers.99.mlp.gate.bias")})
    z.add(name, {8});
  EXPECT_NO_THROW(model.open(z)->load_layer(layer, 1, 0));
}

TEST(Names, TheFamilyOfFusedExpertsWithEitherOrientationIsDecidedByBothShapes) {
  const Model model("qwen3_vl_moe");
  const TensorNames& names = model.layers.forms.front();
  const MoeConfig& c = model.layers.config;
  const int64_t e = c.num_experts, i = c.intermediate, h = c.hidden;
  const Layer l{names, c, "model.", 0};
  const auto with_shapes = [&](Shape gate_up, Shape down) {
    Zeros z = layer_of(model.layers, names, "model.", Experts::Together);
    z.add(l.full(names.fused_gate_up), gate_up);
    z.add(l.full(names.fused_down), down);
    return z;
  };
  ASSERT_EQ(2 * i, h);  // the shapes of gate_up are the same both ways
  EXPECT_NO_THROW(model.open(with_shapes({e, 2 * i, h}, {e, h, i}))->load_layer(0, 1, 0));
  EXPECT_NO_THROW(model.open(with_shapes({e, h, 2 * i}, {e, i, h}))->load_layer(0, 1, 0));
  const auto checkpoint = model.open(with_shapes({e, h, h + 8}, {e, i, h}));
  const auto message = refusal([&] { checkpoint->load_layer(0, 1, 0); });
  EXPECT_NE(message.find("[4, 16, 16] and [4, 16, 8] or [4, 16, 16] and [4, 8, 16]"),
            std::string::npos)
      << message;
}

TEST(Names, ATableOfTokenIdsOutOfRangeIsRefused) {
  const Model model("deepseek_v4");
  auto zeros = layer_of(model.layers, model.layers.forms.front(), "", Experts::Separate);
  EXPECT_NO_THROW(model.open(zeros)->load_layer(0, 1, 0));
  for (const int64_t id : {int64_t{-1}, testing::kFamilyExperts, INT64_MAX}) {
    zeros.id = id;
    const auto checkpoint = model.open(zeros);
    EXPECT_NE(refusal([&] {
                checkpoint->load_layer(0, 1, 0);
              }).find("tid2eid, token 0: expert=" + std::to_string(id)),
              std::string::npos);
  }
}

TEST(Names, AFolderWithAConfigAloneCanBeListed) {
  const Model model("qwen3_moe");
  const auto checkpoint = Checkpoint::open(model.folder.path());
  EXPECT_EQ(checkpoint->config(0).num_experts, testing::kFamilyExperts);
  EXPECT_EQ(checkpoint->module_path(0), "model.layers.0.mlp");
  EXPECT_NE(refusal([&] { checkpoint->load_layer(0, 1, 0); }).find("has neither model.safetensors"),
            std::string::npos);
}

TEST(Names, AMissingRouterIsNamedWhereTransformersHasIt) {
  const Model model("qwen3_moe");
  Zeros z;
  z.add("model.embed.weight", {8});
  const auto checkpoint = model.open(z);
  EXPECT_NE(refusal([&] { checkpoint->load_layer(0, 1, 0); }).find("model.layers.0.mlp"),
            std::string::npos);
}

TEST(MatchTail, ATemplateBeginsBehindADotAndSaysEveryLetter) {
  const char* const name_template = "layers.{layer}.mlp.gate.weight";
  const auto layer_of = [&](std::string_view name) {
    const auto match = match_tail(name, name_template);
    return match ? match->layer : -1;
  };
  EXPECT_EQ(layer_of("layers.0.mlp.gate.weight"), 0);
  EXPECT_EQ(layer_of("model.layers.17.mlp.gate.weight"), 17);
  EXPECT_EQ(match_tail("model.layers.17.mlp.gate.weight", name_template)->prefix_length, 6u);
  for (const char* other :
       {"model.blocks.17.mlp.gate.weight", "blocks.1.mlp.gate.weight", "17.mlp.gate.weight",
        "mylayers.1.mlp.gate.weight", "layers.01.mlp.gate.weight", "layers.1.mlp.gate.bias"})
    EXPECT_EQ(layer_of(other), -1) << other;
}

}  // namespace
}  // namespace switchyard
