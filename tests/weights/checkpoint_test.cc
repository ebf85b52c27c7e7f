// tests/weights/checkpoint_test.cc -- checkpoints of every form give the same layer; broken ones
// are refused.
#include "switchyard/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <nlohmann/json.hpp>

#include "switchyard/error.h"
#include "switchyard/safetensors.h"
#include "testing/buffer.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using nlohmann::json;
using testing::Buffer;
using testing::TemporaryFolder;

constexpr int64_t kHidden = 16, kInner = 8, kExperts = 4;

json mixtral_config() {
  return {{"model_type", "mixtral"},     {"hidden_size", kHidden},
          {"intermediate_size", kInner}, {"num_local_experts", kExperts},
          {"num_experts_per_tok", 2},    {"num_hidden_layers", 2},
          {"hidden_act", "silu"}};
}

// Names and values of a two-layer mixtral with one tensor per expert.
std::map<std::string, Buffer<Bf16>> mixtral_tensors(const std::string& prefix = "") {
  std::map<std::string, Buffer<Bf16>> all;
  uint64_t seed = 1;
  for (int layer = 0; layer < 2; ++layer) {
    const auto moe = prefix + "model.layers." + std::to_string(layer) + ".block_sparse_moe.";
    all[moe + "gate.weight"] = testing::random_bf16({kExperts, kHidden}, seed++);
    for (int e = 0; e < kExperts; ++e) {
      const auto expert = moe + "experts." + std::to_string(e) + ".";
      all[expert + "w1.weight"] = testing::random_bf16({kInner, kHidden}, seed++);
      all[expert + "w3.weight"] = testing::random_bf16({kInner, kHidden}, seed++);
      all[expert + "w2.weight"] = testing::random_bf16({kHidden, kInner}, seed++);
    }
  }
  return all;
}

template <class T>
void write(const std::filesystem::path& path, const std::map<std::string, Buffer<T>>& tensors) {
  std::vector<NamedTensor> named;
  for (const auto& [name, buffer] : tensors) named.push_back({name, buffer.view()});
  write_safetensors(path, named);
}

void expect_same(ConstTensor a, ConstTensor b, const char* what) {
  ASSERT_EQ(a.shape, b.shape) << what;
  ASSERT_EQ(a.dtype, b.dtype) << what;
  if (a.count() == 0) return;
  EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())), 0) << what;
}

void expect_same(const LayerWeights& a, const LayerWeights& b) {
  EXPECT_EQ(a.experts.order, b.experts.order);
  expect_same(a.experts.w1, b.experts.w1, "w1");
  expect_same(a.experts.w2, b.experts.w2, "w2");
  expect_same(a.experts.b1, b.experts.b1, "b1");
  expect_same(a.experts.b2, b.experts.b2, "b2");
  expect_same(a.router.weight, b.router.weight, "router");
  expect_same(a.router.bias, b.router.bias, "router bias");
  expect_same(a.router.correction_bias, b.router.correction_bias, "correction bias");
  expect_same(a.shared.w1, b.shared.w1, "shared w1");
  expect_same(a.shared.w2, b.shared.w2, "shared w2");
  expect_same(a.shared.gate, b.shared.gate, "shared gate");
}

// A folder with one file, as most checkpoints of one GPU.
struct OneFile {
  OneFile() : OneFile(mixtral_config(), mixtral_tensors()) {}
  OneFile(const json& config, const std::map<std::string, Buffer<Bf16>>& tensors) {
    testing::write_file(folder / "config.json", config.dump());
    write(folder / "model.safetensors", tensors);
  }
  LayerWeights load(int64_t layer = 1, int ranks = 1, int rank = 0) const {
    return Checkpoint::open(folder.path())->load_layer(layer, ranks, rank);
  }
  TemporaryFolder folder;
};

std::string refusal(const std::function<void()>& f, Errc code) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

TEST(Checkpoint, PacksGateAndUpOfTheNamedLayer) {
  const OneFile one;
  const auto tensors = mixtral_tensors();
  const auto checkpoint = Checkpoint::open(one.folder.path());
  EXPECT_EQ(checkpoint->family(), "mixtral");
  EXPECT_EQ(checkpoint->moe_layers(), (std::vector<int64_t>{0, 1}));
  const auto w = one.load();
  validate(w, checkpoint->config(1), 1);
  EXPECT_EQ(w.experts.order, GateUpOrder::GateUp);
  const std::string expert = "model.layers.1.block_sparse_moe.experts.2.";
  const auto* w1 = w.experts.w1.as<Bf16>() + 2 * 2 * kInner * kHidden;
  const size_t half = kInner * kHidden * sizeof(Bf16);
  EXPECT_EQ(std::memcmp(w1, tensors.at(expert + "w1.weight").data(), half), 0);
  EXPECT_EQ(std::memcmp(w1 + kInner * kHidden, tensors.at(expert + "w3.weight").data(), half), 0);
}

TEST(Checkpoint, ShardsGiveTheSameAsOneFile) {
  const OneFile one;
  const TemporaryFolder shards;
  testing::write_file(shards / "config.json", mixtral_config().dump());
  std::map<std::string, Buffer<Bf16>> parts[3];
  json map;
  int next = 0;
  for (auto& [name, tensor] : mixtral_tensors()) {
    const auto file = "model-0000" + std::to_string(next % 3 + 1) + "-of-00003.safetensors";
    map[name] = file;
    parts[next++ % 3][name] = std::move(tensor);
  }
  for (int i = 0; i < 3; ++i)
    write(shards / ("model-0000" + std::to_string(i + 1) + "-of-00003.safetensors"), parts[i]);
  testing::write_file(shards / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  expect_same(Checkpoint::open(shards.path())->load_layer(1, 1, 0), one.load());

  std::filesystem::remove(shards / "model-00002-of-00003.safetensors");
  const auto message = refusal([&] { Checkpoint::open(shards.path()); }, Errc::BadFile);
  EXPECT_NE(message.find("model-00002-of-00003.safetensors is missing"), std::string::npos);
}

TEST(Checkpoint, AnIndexThatLeavesItsFolderOrLiesIsRefused) {
  const OneFile one;
  const auto index = one.folder / "model.safetensors.index.json";
  const std::pair<const char*, const char*> bad[] = {
      {R"({"weight_map":{"a":"../model.safetensors"}})", "need a file name in the same folder"},
      {R"({"weight_map":{"a":"part.safetensors"}})", "is not in part.safetensors"},
      {R"({"weight_map":{"a":7}})", "its file is no string"},
      {R"({"weight_map":{}})", "names no files"},
      {R"({"weight_map":[]})", "no object weight_map"},
      {R"({)", "is no JSON object"},
      {R"({"weight_map":{"a":"pipe"}})", "is no regular file"},
  };
  ASSERT_EQ(::mkfifo((one.folder / "pipe").c_str(), 0600), 0);
  std::filesystem::rename(one.folder / "model.safetensors", one.folder / "part.safetensors");
  for (const auto& [content, expected] : bad) {
    testing::write_file(index, content);
    const auto message = refusal([&] { Checkpoint::open(one.folder.path()); }, Errc::BadFile);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  }
  testing::write_file(index, json{{"weight_map", {{"a", std::string(300, 'x')}}}}.dump());
  EXPECT_NE(refusal([&] { Checkpoint::open(one.folder.path()); }, Errc::BadFile).find("is missing"),
            std::string::npos);
}

TEST(Checkpoint, AnIndexThatLeavesATensorOutIsRefused) {
  const OneFile one;
  const auto left_out = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
  json map;
  for (const auto& [name, tensor] : mixtral_tensors())
    if (name != left_out) map[name] = "part.safetensors";
  std::filesystem::rename(one.folder / "model.safetensors", one.folder / "part.safetensors");
  testing::write_file(one.folder / "model.safetensors.index.json",
                      json{{"weight_map", map}}.dump());
  EXPECT_NO_THROW(one.load(1, 2, 0));
  const auto message = refusal([&] { one.load(); }, Errc::BadFile);
  EXPECT_NE(message.find(std::string(left_out) + ": the index names no file"), std::string::npos)
      << message;
}

TEST(Checkpoint, RanksTogetherHoldTheLayerOfOne) {
  const OneFile one;
  const auto all = one.load();
  for (const int ranks : {2, 4})
    for (int rank = 0; rank < ranks; ++rank) {
      const auto part = one.load(1, ranks, rank);
      const int64_t experts = kExperts / ranks;
      expect_same(part.experts.w1, all.experts.w1.rows(rank * experts, experts), "w1");
      expect_same(part.experts.w2, all.experts.w2.rows(rank * experts, experts), "w2");
      expect_same(part.router.weight, all.router.weight, "router");
    }
  refusal([&] { one.load(1, 3, 0); }, Errc::ShapeMismatch);
}

TEST(Checkpoint, ARankReadsNoOtherRanksExperts) {
  // Expert 3 is damaged: its owner says so, the other rank never looks.
  auto tensors = mixtral_tensors();
  tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"] =
      testing::random_bf16({kHidden, kInner + 8}, 5);
  const OneFile one(mixtral_config(), tensors);
  EXPECT_NO_THROW(one.load(1, 2, 0));
  const auto message = refusal([&] { one.load(1, 2, 1); }, Errc::BadFile);
  EXPECT_NE(message.find("experts.3.w2.weight has shape [16, 16], need [16, 8]"), std::string::npos)
      << message;
}

TEST(Checkpoint, ReportsProgressUpToTheWhole) {
  const OneFile one;
  std::vector<int64_t> seen;
  int64_t total = 0;
  Checkpoint::open(one.folder.path())->load_layer(1, 1, 0, [&](int64_t done, int64_t all) {
    seen.push_back(done);
    total = all;
  });
  ASSERT_FALSE(seen.empty());
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), total);
}

TEST(Checkpoint, HalfAndFloatAreRoundedToBf16ButForTheRouter) {
  const OneFile bf16;
  const TemporaryFolder f32;
  std::map<std::string, Buffer<float>> wide;
  for (const auto& [name, tensor] : mixtral_tensors()) {
    wide[name] = Buffer<float>(tensor.view().shape);
    for (int64_t i = 0; i < tensor.count(); ++i) wide[name][i] = static_cast<float>(tensor[i]);
  }
  testing::write_file(f32 / "config.json", mixtral_config().dump());
  write(f32 / "model.safetensors", wide);
  const auto from_f32 = Checkpoint::open(f32.path())->load_layer(1, 1, 0);
  const auto from_bf16 = bf16.load();
  expect_same(from_f32.experts.w1, from_bf16.experts.w1, "w1");
  expect_same(from_f32.experts.w2, from_bf16.experts.w2, "w2");
  // The router stays what it was.
  EXPECT_TRUE(Checkpoint::open(f32.path())->config(1).router_f32);
  ASSERT_EQ(from_f32.router.weight.dtype, DType::F32);
  for (int64_t i = 0; i < kExperts * kHidden; ++i)
    EXPECT_EQ(Bf16(from_f32.router.weight.as<float>()[i]).bits(),
              from_bf16.router.weight.as<Bf16>()[i].bits());

  // f16: known values, among them a subnormal and the largest.
  const TemporaryFolder f16;
  auto tensors = mixtral_tensors();
  const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x3555};  // 1, -2, 2^-24, 65504, 0.33325
  const float value[] = {1.0f, -2.0f, 0x1p-24f, 65504.0f, 0x1.554p-2f};
  std::vector<uint16_t> router(kExperts * kHidden);
  for (size_t i = 0; i < router.size(); ++i) router[i] = half[i % 5];
  std::vector<NamedTensor> named;
  for (const auto& [name, buffer] : tensors)
    named.push_back({name, name == "model.layers.1.block_sparse_moe.gate.weight"
                               ? ConstTensor(router.data(), DType::F16, {kExperts, kHidden})
                               : buffer.view()});
  write_safetensors(f16 / "model.safetensors", named);
  testing::write_file(f16 / "config.json", mixtral_config().dump());
  const auto loaded = Checkpoint::open(f16.path())->load_layer(1, 1, 0);
  ASSERT_EQ(loaded.router.weight.dtype, DType::F32);
  for (int64_t i = 0; i < kExperts * kHidden; ++i)
    EXPECT_EQ(loaded.router.weight.as<float>()[i], value[i % 5]);
}

TEST(Checkpoint, OtherDtypesSayWhatTheyAre) {
  const TemporaryFolder folder;
  std::vector<NamedTensor> named;
  const auto tensors = mixtral_tensors();
  const Buffer<int32_t> quantized({kExperts, kHidden});
  for (const auto& [name, buffer] : tensors)
    named.push_back({name, name == "model.layers.1.block_sparse_moe.gate.weight" ? quantized.view()
                                                                                 : buffer.view()});
  write_safetensors(folder / "model.safetensors", named);
  testing::write_file(folder / "config.json", mixtral_config().dump());
  const auto message =
      refusal([&] { Checkpoint::open(folder.path())->load_layer(1, 1, 0); }, Errc::Unsupported);
  EXPECT_NE(message.find("dtype=I32"), std::string::npos) << message;
}

TEST(Checkpoint, OlderAndNewerSpellingsMeanTheSame) {
  const OneFile one;
  for (const char* spelling : {"num_experts", "n_routed_experts", "moe_num_experts"}) {
    auto config = mixtral_config();
    config.erase("num_local_experts");
    config[spelling] = kExperts;
    const OneFile other(config, mixtral_tensors());
    EXPECT_EQ(Checkpoint::open(other.folder.path())->config(0),
              Checkpoint::open(one.folder.path())->config(0))
        << spelling;
  }
}

TEST(Checkpoint, ANestedTextConfigAndItsTensorPrefixAreFound) {
  const OneFile one;
  for (const char* prefix : {"language_model.", "", "thinker."}) {
    auto text = mixtral_config();
    text["model_type"] = "mixtral_text";
    const OneFile nested({{"model_type", "some_vision_model"}, {"text_config", text}},
                         mixtral_tensors(prefix));
    expect_same(nested.load(), one.load());
    EXPECT_EQ(Checkpoint::open(nested.folder.path())->module_path(1),
              "model.language_model.layers.1.mlp");
  }
}

TEST(Checkpoint, ALayerDescribedByHandIsTheFamilysLayer) {
  const TemporaryFolder folder;
  const std::filesystem::path model =
      std::filesystem::path(SWITCHYARD_SOURCE_DIR) / "data/tiny-code-moe";
  const auto family = Checkpoint::open(model);
  const std::string moe = "model.layers.{layer}.mlp";
  const json layer = {{"hidden", 192},
                      {"intermediate", 96},
                      {"num_experts", 32},
                      {"top_k", 4},
                      {"num_layers", 3},
                      {"gate", {{"scoring", "softmax"}, {"renormalize", true}}},
                      {"tensors",
                       {{"router", moe + ".gate.weight"},
                        {"expert_gate", moe + ".experts.{expert}.gate_proj.weight"},
                        {"expert_up", moe + ".experts.{expert}.up_proj.weight"},
                        {"expert_down", moe + ".experts.{expert}.down_proj.weight"},
                        {"fused_gate_up", moe + ".experts.gate_up_proj"},
                        {"fused_down", moe + ".experts.down_proj"}}}};
  testing::write_file(folder / "layer.json", layer.dump());
  const auto by_hand = Checkpoint::open(model, folder / "layer.json");
  EXPECT_EQ(by_hand->config(1), family->config(1));
  EXPECT_EQ(by_hand->module_path(1), family->module_path(1));
  expect_same(by_hand->load_layer(1, 2, 1), family->load_layer(1, 2, 1));
}

TEST(Checkpoint, ALayerJsonWithAMistakeSaysWhich) {
  const OneFile one;
  const json good = {{"hidden", kHidden}, {"intermediate", kInner}, {"num_experts", kExperts},
                     {"top_k", 2},        {"num_layers", 2},        {"tensors", {{"router", "r"}}}};
  struct Mistake {
    const char* message;
    std::function<void(json&)> make;
  };
  const Mistake all[] = {
      {"hiden is unknown", [](json& j) { j["hiden"] = 1; }},
      {"hidden=\"x\", need an integer", [](json& j) { j["hidden"] = "x"; }},
      {"top_k=nothing", [](json& j) { j.erase("top_k"); }},
      {"no object `tensors`", [](json& j) { j.erase("tensors"); }},
      {"gate.scoring=argmax",
       [](json& j) {
         j["gate"] = {{"scoring", "argmax"}};
       }},
      {"key scorin is unknown",
       [](json& j) {
         j["gate"] = {{"scorin", "softmax"}};
       }},
      {"name=tanh", [](json& j) { j["activation"] = "tanh"; }},
      {"MoE layer 9", [](json& j) { j["moe_layers"] = {9}; }},
      {"top_k=5", [](json& j) { j["top_k"] = 5; }},
  };
  const auto path = one.folder / "layer.json";
  testing::write_file(path, good.dump());
  EXPECT_NO_THROW(Checkpoint::open(one.folder.path(), path));
  for (const auto& mistake : all) {
    json bad = good;
    mistake.make(bad);
    testing::write_file(path, bad.dump());
    try {
      Checkpoint::open(one.folder.path(), path);
      ADD_FAILURE() << mistake.message;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(mistake.message), std::string::npos) << e.what();
    }
  }
}

TEST(Checkpoint, AnUnknownFamilyListsTheKnownAndTheWayByHand) {
  auto config = mixtral_config();
  config["model_type"] = "novel_moe";
  const OneFile one(config, mixtral_tensors());
  const auto message = refusal([&] { Checkpoint::open(one.folder.path()); }, Errc::Unsupported);
  for (const char* part : {"model_type=novel_moe", "--config layer.json"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  for (const auto& family : known_families())
    EXPECT_NE(message.find(family), std::string::npos) << family;
}

TEST(Checkpoint, MissingPartsAreNamed) {
  refusal([] { Checkpoint::open("/nonexistent"); }, Errc::BadFile);
  const OneFile one;
  EXPECT_NE(refusal([&] { one.load(2); }, Errc::BadFile).find("MoE layers are 0, 1"),
            std::string::npos);
  auto tensors = mixtral_tensors();
  tensors.erase("model.layers.1.block_sparse_moe.experts.0.w3.weight");
  const OneFile lacking(mixtral_config(), tensors);
  EXPECT_NE(refusal([&] { lacking.load(1); }, Errc::BadFile).find("experts.0.w3.weight"),
            std::string::npos);
  std::filesystem::remove(one.folder / "model.safetensors");
  EXPECT_EQ(Checkpoint::open(one.folder.path())->config(1).num_experts, kExperts);
  refusal([&] { one.load(1); }, Errc::BadFile);
  std::filesystem::remove(one.folder / "config.json");
  refusal([&] { Checkpoint::open(one.folder.path()); }, Errc::BadFile);
}

TEST(Checkpoint, AConfigWithAWrongTypeOrSizeSaysWhich) {
  const std::pair<json, const char*> bad[] = {
      {{{"hidden_size", "16"}}, "hidden_size=\"16\", need an integer"},
      {{{"hidden_size", 1e300}}, "need an integer"},
      {{{"hidden_size", 18446744073709551615u}}, "need an integer"},
      {{{"hidden_size", 1.5}}, "hidden_size=1.5, need an integer"},
      {{{"num_local_experts", nullptr}},
       "num_local_experts or n_routed_experts or moe_num_experts=null"},
      {{{"num_local_experts", 0}}, "num_experts=0"},
      {{{"num_experts_per_tok", 0}}, "top_k=0"},
      {{{"model_type", "phimoe"}, {"router_jitter_noise", 1e300}}, "need a finite number"},
      {{{"num_local_experts", -4}}, "num_experts=-4"},
      {{{"num_experts_per_tok", 9}}, "top_k=9"},
      {{{"hidden_act", "mish"}}, "name=mish"},
      {{{"num_hidden_layers", -1}}, "num_hidden_layers"},
      {{{"hidden_size", 1 << 30}}, "hidden=1073741824"},
      // The steps of MoE layers at the ends of their type.
      {{{"model_type", "llama4"}, {"interleave_moe_layer_step", INT64_MIN}}, "in steps of -9"},
      {{{"model_type", "ernie4_5_moe"}, {"moe_layer_interval", INT64_MIN}}, "in steps of -9"},
      {{{"model_type", "qwen3_moe"}, {"decoder_sparse_step", 0}}, "in steps of 0"},
      {{{"model_type", "jamba"}, {"expert_layer_offset", -1}}, "MoE layers from -1"},
  };
  for (const auto& [change, expected] : bad) {
    auto config = mixtral_config();
    config.update(change);
    const OneFile one(config, mixtral_tensors());
    try {
      Checkpoint::open(one.folder.path());
      ADD_FAILURE() << expected;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(expected), std::string::npos) << e.what();
    }
  }
}

TEST(Checkpoint, StepsOfMoeLayersMayBeLongerThanTheModel) {
  const std::pair<json, std::vector<int64_t>> all[] = {
      {{{"model_type", "jamba"}, {"expert_layer_period", INT64_MAX}}, {1}},
      {{{"model_type", "llama4"},
        {"num_experts_per_tok", 1},
        {"interleave_moe_layer_step", INT64_MAX}},
       {}},
      {{{"model_type", "ernie4_5_moe"}, {"moe_layer_end_index", INT64_MAX}}, {1}},
      {{{"model_type", "qwen3_moe"}, {"mlp_only_layers", {5, 1}}}, {0}},
  };
  for (const auto& [change, layers] : all) {
    auto config = mixtral_config();
    config.update(change);
    const OneFile one(config, mixtral_tensors());
    EXPECT_EQ(Checkpoint::open(one.folder.path())->moe_layers(), layers) << change;
  }
}

TEST(Checkpoint, NumbersThatJsonHasNotAreRefused) {
  const OneFile one;
  for (const char* number : {"NaN", "Infinity", "-Infinity", "1e999"}) {
    testing::write_file(one.folder / "config.json",
                        std::string(R"({"model_type":"mixtral","hidden_size":)") + number + "}");
    EXPECT_NE(refusal([&] { Checkpoint::open(one.folder.path()); }, Errc::BadFile)
                  .find("config.json, is no JSON object"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace switchyard
