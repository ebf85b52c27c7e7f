// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/checkpoint_test.cc -- checkpoints of every form give the same layer; broken ones
// are refused.
#include "switchyard/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>
#include <utility>

#include "switchyard/error.h"
#include "switchyard/safetensors.h"
#include "testing/buffer.h"
#include "testing/temporary_folder.h"
#include "weights/checkpoint_files.h"

namespace switchyard {
namespace {

using nlohmann::json;
using testing::Buffer;
using testing::TemporaryFolder;

constexpr const char* kPointer =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4444\nsize 123\n";
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
  const auto checkpoint = Checkpoint::open(shards.path());
  const auto message = refusal([&] { checkpoint->load_layer(1, 1, 0); }, Errc::BadFile);
  EXPECT_NE(message.find("model-00002-of-00003.safetensors is missing"), std::string::npos);
  EXPECT_NE(message.find("tensor model.layers.1."), std::string::npos) << message;
}

TEST(Checkpoint, AnIndexWithoutEntriesIsRefused) {
  const OneFile one;
  const auto index = one.folder / "model.safetensors.index.json";
  const std::pair<const char*, const char*> bad[] = {
      {R"({"weight_map":{}})", "names no files"},
      {R"({"weight_map":[]})", "no object weight_map"},
      {R"({"weight_map":{"a":"b"},"weight_map":null})", "no object weight_map"},
      {R"({"metadata":{"weight_map":{"a":"b"}}})", "no object weight_map"},
      {R"(["weight_map",{"a":"b"}])", "no object weight_map"},
      {"{\n\"weight_map\":", "index.json, line 2: the text ends inside"},
  };
  std::filesystem::rename(one.folder / "model.safetensors", one.folder / "part.safetensors");
  for (const auto& [content, expected] : bad) {
    testing::write_file(index, content);
    const auto message = refusal([&] { Checkpoint::open(one.folder.path()); }, Errc::BadFile);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  }
}

// A checkpoint whose index says `file` of one tensor of layer 1, and the truth of the others.
struct Indexed {
  explicit Indexed(const json& file, const char* tensor = kTensor) {
    json map;
    for (const auto& [name, buffer] : mixtral_tensors()) map[name] = "part.safetensors";
    map[tensor] = file;
    std::filesystem::rename(one.folder / "model.safetensors", one.folder / "part.safetensors");
    testing::write_file(one.folder / "model.safetensors.index.json",
                        json{{"metadata", {{"total_size", 7}}}, {"weight_map", map}}.dump());
  }
  static constexpr const char* kTensor = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
  OneFile one;
};

TEST(Checkpoint, AnIndexThatLeavesItsFolderOrLiesMattersWhereItIsNeeded) {
  const std::pair<json, const char*> bad[] = {
      {"../part.safetensors", "file=../part.safetensors, need a file name in the same folder"},
      {"/etc/passwd", "need a file name in the same folder"},
      {"sub/part.safetensors", "need a file name in the same folder"},
      {"..", "need a file name in the same folder"},
      {".", "need a file name in the same folder"},
      {"", "need a file name in the same folder"},
      {std::string("part.safetensors\0x", 18), "need a file name in the same folder"},
      {"config.json", "safetensors: "},
      {"other.safetensors", "is not in other.safetensors"},
      {7, "its file is no string"},
      {nullptr, "its file is no string"},
      {json::array({"part.safetensors"}), "its file is no string"},
      {{{"weight_map", "part.safetensors"}}, "its file is no string"},
      {"pipe", "is no regular file"},
      {"gone", "gone is missing; its index names it"},
      {std::string(300, 'x'), "is missing"},
      {"link", "is a link to nowhere, which does not exist"},
      {"pointer", "is a Git LFS pointer; the file of size=123 bytes is not here. Run git lfs pull"},
  };
  const OneFile plain;
  for (const auto& [file, expected] : bad) {
    const Indexed needed(file), unread(file, "vision.weight");
    for (const auto* folder : {&needed.one.folder, &unread.one.folder}) {
      ASSERT_EQ(::mkfifo((*folder / "pipe").c_str(), 0600), 0);
      std::filesystem::create_symlink("nowhere", *folder / "link");
      testing::write_file(*folder / "pointer", kPointer);
      write<Bf16>(*folder / "other.safetensors", {});
    }
    const auto message = refusal([&] { needed.one.load(); }, Errc::BadFile);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_NE(message.find(Indexed::kTensor), std::string::npos) << message;
    expect_same(needed.one.load(0), plain.load(0));
    expect_same(needed.one.load(1, 2, 0), plain.load(1, 2, 0));
    expect_same(unread.one.load(), plain.load());
  }
}

TEST(Checkpoint, OfEntriesThatOccurTwiceTheLastCounts) {
  const OneFile plain;
  for (const char* form :
       {R"({"weight_map":{"T":"gone"},"weight_map":{REST,"T":"part.safetensors"}})",
        R"({"weight_map":{"T":"gone",REST,"T":7,"T":"part.safetensors"}})"}) {
    const Indexed twice("part.safetensors");
    std::string text = form, rest;
    for (const auto& [name, buffer] : mixtral_tensors())
      if (name != Indexed::kTensor)
        rest += (rest.empty() ? "\"" : ",\"") + name + "\":\"part.safetensors\"";
    text.replace(text.find("REST"), 4, rest);
    for (size_t at = 0; (at = text.find("\"T\"", at)) != std::string::npos;)
      text.replace(at + 1, 1, Indexed::kTensor);
    testing::write_file(twice.one.folder / "model.safetensors.index.json", text);
    expect_same(twice.one.load(), plain.load());
  }
}

TEST(Checkpoint, RanksThatAreThreadsOpenShardsTogether) {
  const OneFile plain;
  const Indexed shared("part.safetensors");
  const auto checkpoint = Checkpoint::open(shared.one.folder.path());
  std::vector<LayerWeights> parts(4);
  {
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < 4; ++rank)
      ranks.emplace_back(
          [&, rank] { parts[static_cast<size_t>(rank)] = checkpoint->load_layer(1, 4, rank); });
  }
  for (int rank = 0; rank < 4; ++rank)
    expect_same(parts[static_cast<size_t>(rank)], plain.load(1, 4, rank));
}

// The layers' tensors in three shards, and no index.
struct Unindexed {
  explicit Unindexed(const std::string& stem = "model", const std::string& count = "00003") {
    testing::write_file(folder / "config.json", mixtral_config().dump());
    std::map<std::string, Buffer<Bf16>> parts[3];
    int next = 0;
    for (auto& [name, tensor] : mixtral_tensors()) parts[next++ * 3 / 26][name] = std::move(tensor);
    for (int i = 0; i < 3; ++i) {
      files.push_back(folder / (stem + "-0000" + std::to_string(i + 1) +
                                (count.empty() ? "" : "-of-" + count) + ".safetensors"));
      write(files.back(), parts[i]);
    }
  }
  LayerWeights load(int64_t layer = 1) const {
    return Checkpoint::open(folder.path())->load_layer(layer, 1, 0);
  }
  TemporaryFolder folder;
  std::vector<std::filesystem::path> files;
};

TEST(Checkpoint, ShardsWithoutAnIndexAreFoundByTheirHeaders) {
  const OneFile one;
  for (const auto& [stem, count] :
       {std::pair{"model", "00003"}, {"pytorch_model", "00003"}, {"consolidated", ""}}) {
    const Unindexed shards(stem, count);
    expect_same(shards.load(0), one.load(0));
    expect_same(shards.load(1), one.load(1));
  }
  const Unindexed shards;  // beside shards, other files are none of the model's
  write(shards.folder / "inputs.safetensors", mixtral_tensors());
  expect_same(shards.load(), one.load());
}

TEST(Checkpoint, AShardWithoutAnIndexThatIsMissingMattersWhereItIsNeeded) {
  const OneFile one;
  const auto damage = [](const Unindexed& shards, const char* how) {
    std::filesystem::remove(shards.files[2]);
    if (how == std::string("link")) std::filesystem::create_symlink("nowhere", shards.files[2]);
    if (how == std::string("pointer")) testing::write_file(shards.files[2], kPointer);
  };
  for (const auto& [how, expected] :
       {std::pair{"gone", "model-00003-of-00003.safetensors is missing"},
        {"link", "is a link to nowhere, which does not exist"},
        {"pointer", "is a Git LFS pointer"}}) {
    const Unindexed shards;
    damage(shards, how);
    expect_same(shards.load(0), one.load(0));
    const auto message = refusal([&] { shards.load(1); }, Errc::BadFile);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_NE(message.find("tensor model.layers.1."), std::string::npos) << message;
  }
}

TEST(Checkpoint, ATensorThatTwoShardsHoldMattersWhereItIsNeeded) {
  const OneFile one;
  const Unindexed shards("part", "");
  auto twice = mixtral_tensors();
  std::erase_if(twice, [](const auto& t) { return t.first != Indexed::kTensor; });
  write(shards.folder / "z.safetensors", twice);
  expect_same(shards.load(0), one.load(0));
  const auto message = refusal([&] { shards.load(1); }, Errc::BadFile);
  EXPECT_NE(message.find(std::string("tensor ") + Indexed::kTensor + " stands in "),
            std::string::npos);
  EXPECT_NE(message.find("part-00003.safetensors and in z.safetensors"), std::string::npos)
      << message;
}

TEST(Checkpoint, TheSingleFileIsTakenBeforeAnIndex) {
  const OneFile one;
  testing::write_file(one.folder / "model.safetensors.index.json", "{");
  expect_same(one.load(), OneFile().load());
}

TEST(Checkpoint, FilesThatOnlyStandForOthersSayHowToGetThem) {
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    const OneFile one;
    if (name == std::string("model.safetensors.index.json"))
      std::filesystem::remove(one.folder / "model.safetensors");
    testing::write_file(one.folder / name, kPointer);
    auto message = refusal([&] { one.load(); }, Errc::BadFile);
    EXPECT_NE(message.find(std::string(name) + ", is a Git LFS pointer; the file of size=123"),
              std::string::npos)
        << message;
    std::filesystem::remove(one.folder / name);
    std::filesystem::create_symlink("../blobs/7", one.folder / name);
    message = refusal([&] { one.load(); }, Errc::BadFile);
    EXPECT_NE(message.find("is a link to ../blobs/7, which does not exist. Download it again."),
              std::string::npos)
        << message;
  }
}

TEST(Checkpoint, FormatsThatAreNotReadAreNamed) {
  const OneFile one;
  std::filesystem::remove(one.folder / "model.safetensors");
  EXPECT_NE(refusal([&] { one.load(); }, Errc::BadFile).find("has neither"), std::string::npos);
  for (const char* name : {"pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "q4.gguf"}) {
    testing::write_file(one.folder / name, "x");
    const auto message = refusal([&] { one.load(); }, Errc::BadFile);
    EXPECT_NE(message.find(std::string("holds no safetensors but ") + name), std::string::npos)
        << message;
    EXPECT_NE(message.find("are not read"), std::string::npos) << message;
    std::filesystem::remove(one.folder / name);
  }
}

TEST(Checkpoint, ACacheOfTheHubIsReadThroughItsMain) {
  const OneFile one;
  const TemporaryFolder cache;
  const auto model = cache / "models--org--name", snapshot = model / "snapshots" / "abc";
  std::filesystem::create_directories(model / "refs");
  std::filesystem::create_directories(snapshot);
  testing::write_file(model / "refs" / "main", "abc");
  for (const char* name : {"config.json", "model.safetensors"})
    std::filesystem::create_symlink(one.folder / name, snapshot / name);
  for (const auto& path : {model, model / "snapshots", snapshot})
    expect_same(Checkpoint::open(path)->load_layer(1, 1, 0), one.load());
}

TEST(CheckpointFiles, WalksOverEveryNameInOrder) {
  std::vector<std::string> expected;
  for (const auto& [name, tensor] : mixtral_tensors()) expected.push_back(name);
  const auto names = [](const TemporaryFolder& folder) {
    std::vector<std::string> all;
    CheckpointFiles::open(folder.path())->for_each_name([&](const std::string& name) {
      all.push_back(name);
    });
    return all;
  };
  EXPECT_EQ(names(OneFile().folder), expected);
  EXPECT_EQ(names(Unindexed().folder), expected);
  const Indexed indexed("gone");
  std::filesystem::remove(indexed.one.folder / "part.safetensors");  // no shard is opened
  EXPECT_EQ(names(indexed.one.folder), expected);
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
  for (const int ranks : {2, 3, 4, 7})
    for (int rank = 0; rank < ranks; ++rank) {
      const auto part = one.load(1, ranks, rank);
      const int64_t places = experts_of_rank(kExperts, ranks), first = rank * places;
      const int64_t experts = std::clamp<int64_t>(kExperts - first, 0, places);
      ASSERT_EQ(part.experts.w1.dim(0), places);
      expect_same(part.experts.w1.rows(0, experts), all.experts.w1.rows(first, experts), "w1");
      expect_same(part.experts.w2.rows(0, experts), all.experts.w2.rows(first, experts), "w2");
      expect_same(part.router.weight, all.router.weight, "router");
      const ConstTensor empty = part.experts.w2.rows(experts, places - experts);
      for (int64_t i = 0; i < empty.count(); ++i) EXPECT_EQ(empty.as<Bf16>()[i].bits(), 0);
    }
  refusal([&] { one.load(1, 3, 3); }, Errc::ShapeMismatch);
  refusal([&] { one.load(1, 0, 0); }, Errc::ShapeMismatch);
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

TEST(Checkpoint, AFileThatShrinksOrIsWrittenWhileItIsLoadedIsAnError) {
  const OneFile one;
  const auto path = one.folder / "model.safetensors";
  const std::string whole = testing::read_file(path);
  std::mt19937_64 rng(1);
  for (int i = 0; i < 100; ++i) {
    testing::write_file(path, whole);
    const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
    std::filesystem::last_write_time(path, long_ago);  // far enough for clocks that tick slowly
    const bool shrinks = i % 4 != 0;
    bool done = false;
    const auto change = [&](int64_t, int64_t) {
      if (std::exchange(done, true)) return;
      if (shrinks)
        std::filesystem::resize_file(path, rng() % whole.size());
      else
        testing::write_file(path, whole);
    };
    const auto message = refusal(
        [&] { Checkpoint::open(one.folder.path())->load_layer(1, 1, 0, change); }, Errc::BadFile);
    EXPECT_NE(message.find("nothing writes it any more"), std::string::npos) << message;
  }
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

// Bytes that a file holds for a tensor of a dtype nobody here knows.
std::string with_foreign_tensor(const std::string& file, const std::string& name,
                                const std::string& dtype, bool instead) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  auto header = json::parse(file.substr(8, length));
  const size_t data = file.size() - 8 - length;
  if (instead)
    header[name]["dtype"] = dtype;
  else
    header[name] = {{"dtype", dtype}, {"shape", {3, 5}}, {"data_offsets", {data, data + 7}}};
  const std::string text = header.dump();
  length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text +
         file.substr(file.size() - data) + std::string(7, 'x');
}

TEST(Checkpoint, ADtypeThatIsNotKnownMattersWhereItIsRead) {
  const OneFile plain;
  for (const char* dtype : {"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "C64X", "I2", ""}) {
    const OneFile one;
    const auto path = one.folder / "model.safetensors";
    const std::string good = testing::read_file(path);
    testing::write_file(path, with_foreign_tensor(good, "vision.weight", dtype, false));
    expect_same(one.load(), plain.load());
    testing::write_file(path, with_foreign_tensor(good, Indexed::kTensor, dtype, true));
    expect_same(one.load(1, 2, 0), plain.load(1, 2, 0));
    const auto message = refusal([&] { one.load(); }, Errc::Unsupported);
    EXPECT_NE(message.find(std::string("tensor ") + Indexed::kTensor + ": dtype=" + dtype),
              std::string::npos)
        << message;
  }
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

// Each of gate, up and down in a tensor of all experts: those of a rank are its share of them.
TEST(Checkpoint, AStackOfAllExpertsIsReadOneExpertAfterTheOther) {
  const OneFile one;
  auto tensors = mixtral_tensors();
  const auto stack = [&](const std::string& layer, const char* part, Shape shape) {
    Buffer<Bf16> all(shape);
    for (int e = 0; e < kExperts; ++e) {
      const auto name = layer + "experts." + std::to_string(e) + "." + part + ".weight";
      std::copy_n(tensors.at(name).data(), kHidden * kInner, all.data() + e * kHidden * kInner);
      tensors.erase(name);
    }
    tensors[layer + part] = std::move(all);
  };
  for (const char* layer :
       {"model.layers.0.block_sparse_moe.", "model.layers.1.block_sparse_moe."}) {
    stack(layer, "w1", {kExperts, kInner, kHidden});
    stack(layer, "w3", {kExperts, kInner, kHidden});
    stack(layer, "w2", {kExperts, kHidden, kInner});
  }
  const OneFile stacked(mixtral_config(), tensors);
  const std::string moe = "model.layers.{layer}.block_sparse_moe.";
  const json layer = {{"hidden", kHidden},
                      {"intermediate", kInner},
                      {"num_experts", kExperts},
                      {"top_k", 2},
                      {"num_layers", 2},
                      {"tensors",
                       {{"router", moe + "gate.weight"},
                        {"stacked_gate", moe + "w1"},
                        {"stacked_up", moe + "w3"},
                        {"fused_down", moe + "w2"}}}};
  testing::write_file(stacked.folder / "layer.json", layer.dump());
  const auto by_hand = Checkpoint::open(stacked.folder.path(), stacked.folder / "layer.json");
  for (const int ranks : {1, 2, 4})
    for (int rank = 0; rank < ranks; ++rank)
      expect_same(by_hand->load_layer(1, ranks, rank), one.load(1, ranks, rank));
}

TEST(Checkpoint, ALayerJsonSaysWhatIsAroundItsExperts) {
  const OneFile one;
  const json layer = {
      {"hidden", kHidden},   {"intermediate", kInner}, {"num_experts", kExperts},
      {"top_k", 2},          {"num_layers", 2},        {"latent", 8},
      {"output_norm", true}, {"norm_epsilon", 0.25},   {"tensors", {{"router", "r"}}}};
  testing::write_file(one.folder / "layer.json", layer.dump());
  const auto path = Checkpoint::open(one.folder.path(), one.folder / "layer.json")->config(1).path;
  EXPECT_EQ(path.latent, 8);
  EXPECT_TRUE(path.output_norm);
  EXPECT_FALSE(path.input_norm);
  EXPECT_EQ(path.norm_epsilon, 0.25f);
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
      {"gate=3, need an object", [](json& j) { j["gate"] = 3; }},
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

TEST(Checkpoint, NumbersThatJsonHasNotMatterWhereTheyAreNeeded) {
  const OneFile one;
  for (const char* number : {"NaN", "Infinity", "-Infinity", "1e999"}) {
    const auto with = [&](const char* key, const char* type) {
      auto config = mixtral_config();
      config["model_type"] = type;
      config[key] = "HERE";
      std::string text = config.dump();
      text.replace(text.find("\"HERE\""), 6, number);
      testing::write_file(one.folder / "config.json", text);
      return [&] { Checkpoint::open(one.folder.path()); };
    };
    EXPECT_NE(refusal(with("hidden_size", "mixtral"), Errc::BadFile)
                  .find(std::string("hidden_size=\"") + number + "\", need an integer"),
              std::string::npos);
    EXPECT_NE(
        refusal(with("router_jitter_noise", "phimoe"), Errc::BadFile).find("need a finite number"),
        std::string::npos);
    with("time_step_limit", "mixtral");
    expect_same(one.load(), OneFile().load());
  }
}

}  // namespace
}  // namespace switchyard
