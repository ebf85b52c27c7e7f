// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/c_api/layer_test.cc -- the C API gives the bits of the C++ API.
#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "c_api/c_layer.h"
#include "switchyard/linear_attention.h"
#include "switchyard/safetensors.h"
#include "testing/checkpoints.h"
#include "testing/f8_weights.h"
#include "testing/family_configs.h"
#include "testing/layer_features.h"
#include "testing/placed_layer.h"
#include "testing/small_layer.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using namespace testing;

constexpr int64_t kTokens = 9;

std::map<std::string, MoeConfig> layers() {
  std::map<std::string, MoeConfig> all{{"small", small_layer()}};
  for (const LayerFeature& feature : layer_features()) all[feature.name] = feature.config;
  all["f32_sums"] = plain_layer();
  all["f32_sums"].f32_sums = true;
  all["biases"] = plain_layer();
  all["biases"].expert_bias = all["biases"].router_bias = true;
  all["groups"] = sigmoid_layer();
  all["groups"].gate.num_groups = 4;
  all["groups"].gate.num_groups_kept = 2;
  all["groups"].gate.group_score = GroupScore::Max;
  all["sparse_mixer"] = plain_layer();
  all["sparse_mixer"].top_k = 2;
  all["sparse_mixer"].gate.scoring = Scoring::SparseMixer;
  all["sparse_mixer"].gate.jitter_epsilon = 0.3f;
  all["clamped_renormalizer"] = sigmoid_layer();
  all["clamped_renormalizer"].gate.clamp_renormalizer = true;
  all["clamped_renormalizer"].gate.renormalize_epsilon = 5;
  all["epsilon_of_norms"] = plain_layer();
  all["epsilon_of_norms"].path = {.input_norm = true, .output_norm = true, .norm_epsilon = 0.5f};
  all["shared_situ"] = sigmoid_layer();
  all["shared_situ"].shared.activation = Activation{ActivationKind::Situ, 0.5f, 0.8f};
  all["weight_on_input"] = plain_layer();
  all["weight_on_input"].top_k = 1;
  all["weight_on_input"].gate.scoring = Scoring::Sigmoid;
  all["weight_on_input"].router_weight_on_input = true;
  return all;
}

// A call of the gate with an output of the layer's dtype.
struct Call {
  Call(const MoeConfig& c, uint64_t seed)
      : hidden(random_bf16({kTokens, c.hidden}, seed)),
        token_ids(token_ids_for(c, kTokens, seed)),
        output({kTokens, c.hidden, c.f32_sums ? 2 : 1}),
        config(c) {}

  ForwardArgs args() {
    const Shape shape{kTokens, config.hidden};
    ForwardArgs args{
        .output = Tensor(output.data(), config.f32_sums ? DType::F32 : DType::Bf16, shape),
        .hidden = std::as_const(hidden).view()};
    if (config.gate.vocabulary > 0) args.token_ids = std::as_const(token_ids).view();
    return args;
  }

  Buffer<Bf16> hidden;
  Buffer<int64_t> token_ids;
  Buffer<Bf16> output;  // f32 as two of them
  MoeConfig config;
};

// What C++ computes.
Buffer<Bf16> expected(const MoeConfig& config, uint64_t seed) {
  Call call(config, seed);
  const auto layer =
      MoeLayer::create(config, random_weights(config, 1, 0, seed), small_options("auto"));
  layer->forward(call.args());
  layer->wait();
  return call.output;
}

TEST(CLayer, EveryFieldOfAConfigGivesTheBitsOfCpp) {
  const CContext context = c_context();
  uint64_t seed = std::random_device{}();
  for (const auto& [name, config] : layers()) {
    SCOPED_TRACE(name + ", seed " + std::to_string(++seed));
    const CWeights weights = c_random_weights(context.get(), config, seed);
    const CLayer layer = c_layer(context.get(), config, weights.get(), c_options(64));
    Call call(config, seed);
    c_forward(layer.get(), call.args());
    EXPECT_TRUE(same_bits(call.output, expected(config, seed)));
    EXPECT_TRUE(call.output.guards_intact());
  }
}

// Of every MoE layer of a folder, and how many of them there are.
void expect_configs_of_cpp(const std::filesystem::path& folder) {
  const auto cpp = Checkpoint::open(folder);
  const auto checkpoint = made<CCheckpoint>(
      [&](swy_checkpoint** out) { return swy_checkpoint_create(folder.c_str(), nullptr, out); });
  int64_t count = -1;
  good(swy_checkpoint_layers(checkpoint.get(), nullptr, 0, &count));
  std::vector<int64_t> layers(static_cast<size_t>(count) + 1, -7);
  good(swy_checkpoint_layers(checkpoint.get(), layers.data(), count, &count));
  EXPECT_EQ(layers.back(), -7);
  layers.pop_back();
  EXPECT_EQ(layers, cpp->moe_layers());
  for (const int64_t layer : layers) {
    swy_config config;
    SWY_INIT(config, config);
    good(swy_checkpoint_config(checkpoint.get(), layer, &config));
    const swy_config wanted = c_config(cpp->config(layer));
    EXPECT_EQ(std::memcmp(&config, &wanted, sizeof config), 0) << "layer " << layer;
  }
}

TEST(CLayer, CheckpointsOfEveryFamilyHaveTheConfigsOfCpp) {
  for (const auto& folder : checkpoint_folders()) {
    SCOPED_TRACE(folder);
    expect_configs_of_cpp(folder);
  }
  const TemporaryFolder folder;
  for (const auto& [family, config] : family_configs()) {
    SCOPED_TRACE(family);
    write_file(folder / "config.json", with(config, {{"model_type", family}}).dump());
    expect_configs_of_cpp(folder.path());
  }
}

TEST(CLayer, ExplainNamesTheConfigAndTheStrategyInAsMuchRoomAsThereIs) {
  const CContext context = c_context(1);
  for (const auto& [name, config] : layers()) {
    const CWeights weights = c_random_weights(context.get(), config, 1);
    const CLayer layer = c_layer(context.get(), config, weights.get(), c_options(8));
    size_t needed = 0;
    good(swy_layer_explain(layer.get(), nullptr, 0, &needed));
    std::string text(needed, '#');
    good(swy_layer_explain(layer.get(), text.data(), text.size(), nullptr));
    EXPECT_EQ(text.back(), '\0');
    EXPECT_EQ(std::strlen(text.c_str()) + 1, needed);
    EXPECT_NE(text.find("layer     " + describe(config) + "\n"), std::string::npos) << text;
    EXPECT_NE(text.find("\nstrategy  local+"), std::string::npos) << text;
    std::string part(12, '#');
    good(swy_layer_explain(layer.get(), part.data(), 10, nullptr));
    EXPECT_EQ(part, text.substr(0, 9) + '\0' + "##");
  }
}

TEST(CLayer, ALayerOfACheckpointGivesTheBitsOfCpp) {
  const std::string folder = SWITCHYARD_SOURCE_DIR "/data/tiny-code-moe";
  const auto cpp = Checkpoint::open(folder);
  const MoeConfig config = cpp->config(1);
  SmallCall call(kTokens);
  const Buffer<Bf16> hidden = random_bf16({kTokens, config.hidden}, std::random_device{}());
  Buffer<Bf16> wanted({kTokens, config.hidden}), output({kTokens, config.hidden});
  const auto layer = MoeLayer::create(config, cpp->load_layer(1, 1, 0), small_options("auto"));
  layer->forward({.output = wanted.view(), .hidden = hidden.view()});

  const CContext context = c_context();
  auto checkpoint = made<CCheckpoint>(
      [&](swy_checkpoint** out) { return swy_checkpoint_create(folder.c_str(), nullptr, out); });
  const auto weights = made<CWeights>([&](swy_weights** out) {
    return swy_weights_create_from_checkpoint(context.get(), checkpoint.get(), 1, 1, 0, out);
  });
  checkpoint.reset();
  const CLayer c = c_layer(context.get(), config, weights.get(), c_options(64));
  c_forward(c.get(), {.output = output.view(), .hidden = hidden.view()});
  EXPECT_TRUE(same_bits(output, wanted));
}

TEST(CLayer, ExpertsInF8GiveTheBitsOfCpp) {
  const MoeConfig config = small_layer();
  constexpr int64_t kAll = ScaleBlock::kWhole;
  for (const ExpertFormat& format :
       {fp8_blocks(config), ExpertFormat{DType::F8E4m3, {1, kAll}, {kAll, kAll}}}) {
    const LayerWeights f8 = random_weights(config, 1, 0, 7, format);
    SmallCall wanted(kTokens), call = wanted;
    const auto cpp = MoeLayer::create(config, f8, small_options("auto"));
    cpp->forward(wanted.with_gate());

    const CContext context = c_context();
    const swy_config c = c_config(config);
    const swy_weight_views views = c_views(f8);
    EXPECT_EQ(views.w1.dtype, SWY_F8_E4M3);
    const auto lent = made<CWeights>(
        [&](swy_weights** out) { return swy_weights_create(&views, nullptr, nullptr, out); });
    swy_weight_views seen;
    SWY_INIT(weight_views, seen);
    good(swy_weights_view(lent.get(), &seen));
    EXPECT_EQ(std::memcmp(&seen, &views, sizeof seen), 0);
    const auto copy = made<CWeights>([&](swy_weights** out) {
      return swy_weights_create_copy(context.get(), &c, 1, &seen, out);
    });
    const CLayer layer = c_layer(context.get(), config, copy.get(), c_options(64));
    c_forward(layer.get(), call.with_gate());
    EXPECT_TRUE(same_bits(call.output, wanted.output));

    swy_options options = c_options(64);
    options.experts = SWY_F8_E4M3;
    size_t bytes = 0;
    good(swy_workspace_bytes(context.get(), &c, 1, &options, &bytes));
    EXPECT_EQ(bytes, cpp->workspace_bytes());
  }
}

TEST(CLayer, ScalesThatDoNotFitAreRefused) {
  const LayerWeights f8 = random_weights(small_layer(), 1, 0, 7, fp8_blocks(small_layer()));
  swy_weight_views views = c_views(f8);
  views.w1_block_rows = -1;
  swy_weights* out = nullptr;
  EXPECT_EQ(swy_weights_create(&views, nullptr, nullptr, &out), SWY_INVALID_ARGUMENT);
  EXPECT_NE(std::string(swy_last_error()).find("w1_block_rows=-1"), std::string::npos);
  views = c_views(f8);
  views.w2_block_cols = 64;
  const CContext context = c_context();
  const swy_config config = c_config(small_layer());
  EXPECT_EQ(swy_weights_create_copy(context.get(), &config, 1, &views, &out), SWY_UNSUPPORTED);
  EXPECT_NE(std::string(swy_last_error()).find("block.cols=64"), std::string::npos);
}

// qwen3_moe with one MoE layer, experts in one tensor each, as a file has them.
void write_f8_checkpoint(const std::filesystem::path& folder) {
  constexpr int64_t kExperts = 4, kHidden = 128, kInner = 128;
  write_file(folder / "config.json",
             R"({"model_type": "qwen3_moe", "hidden_size": 128, "moe_intermediate_size": 128,
                 "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 1,
                 "norm_topk_prob": true, "hidden_act": "silu",
                 "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})");
  const auto router = random_bf16({kExperts, kHidden}, 1);
  const F8Matrix w1 = f8_matrix(random_bf16({kExperts, 2 * kInner, kHidden}, 2).view(), {}),
                 w2 = f8_matrix(random_bf16({kExperts, kHidden, kInner}, 3).view(), {});
  const std::string at = "model.layers.0.mlp.";
  const std::vector<NamedTensor> tensors{{at + "gate.weight", router.view()},
                                         {at + "experts.gate_up_proj", w1.codes.view()},
                                         {at + "experts.gate_up_proj_scale_inv", w1.scales.view()},
                                         {at + "experts.down_proj", w2.codes.view()},
                                         {at + "experts.down_proj_scale_inv", w2.scales.view()}};
  write_safetensors(folder / "model.safetensors", tensors);
}

TEST(CLayer, NativeWeightsOfACheckpointGiveTheBitsOfCpp) {
  const TemporaryFolder folder;
  write_f8_checkpoint(folder.path());
  const auto cpp = Checkpoint::open(folder.path());
  const auto native = cpp->load_layer(0, 1, 0, {}, WeightForms::Native);
  SmallCall call(kTokens);
  Buffer<Bf16> wanted({kTokens, 128});
  const auto layer = MoeLayer::create(cpp->config(0), native, small_options("auto"));
  layer->forward({.output = wanted.view(), .hidden = std::as_const(call.hidden).view()});

  const CContext context = c_context();
  const std::string path = folder.path().string();
  const auto checkpoint = made<CCheckpoint>(
      [&](swy_checkpoint** out) { return swy_checkpoint_create(path.c_str(), nullptr, out); });
  const auto weights = made<CWeights>([&](swy_weights** out) {
    return swy_weights_create_native(context.get(), checkpoint.get(), 0, 1, 0, out);
  });
  swy_weight_views seen;
  SWY_INIT(weight_views, seen);
  good(swy_weights_view(weights.get(), &seen));
  EXPECT_EQ(seen.w1.dtype, SWY_F8_E4M3);
  EXPECT_EQ(seen.w2_block_cols, 128);
  const CLayer c = c_layer(context.get(), cpp->config(0), weights.get(), c_options(64));
  c_forward(c.get(), {.output = call.output.view(), .hidden = std::as_const(call.hidden).view()});
  EXPECT_TRUE(same_bits(call.output, wanted));
}

TEST(CLayer, IdsOfBothWidthsAndTheReport) {
  const CContext context = c_context();
  const CWeights weights = c_random_weights(context.get(), small_layer(), 5);
  swy_options options = c_options(64);
  options.strategy = "local+hybrid";
  options.masked_max_tokens = 7;
  const CLayer layer = c_layer(context.get(), small_layer(), weights.get(), options);
  const auto cpp = MoeLayer::create(small_layer(), random_weights(small_layer(), 1, 0, 5),
                                    small_options("auto"));
  SmallCall call(kTokens, std::random_device{}()), wanted = call;
  cpp->forward(wanted.with_ids());

  const swy_forward_args args = c_args(call.with_ids());
  swy_report report;
  SWY_INIT(report, report);
  good(swy_layer_forward(layer.get(), &args, &report));
  EXPECT_EQ(report.layout, SWY_CONTIGUOUS);  // more tokens than the threshold
  EXPECT_EQ(report.max_rows, 64);
  EXPECT_EQ(report.masked_max_tokens, 7);
  EXPECT_TRUE(same_bits(call.output, wanted.output));

  const std::vector<int64_t> wide(call.ids.data(), call.ids.data() + call.ids.count());
  call.output = Buffer<Bf16>({kTokens, 128});
  ForwardArgs with_wide = call.with_ids();
  with_wide.ids = ConstTensor(wide.data(), {kTokens, 4});
  with_wide.max_tokens = kTokens;
  c_forward(layer.get(), with_wide);
  EXPECT_TRUE(same_bits(call.output, wanted.output));
}

// On one rank no bit depends on where experts are.
TEST(CLayer, PlacementsAreSwappedAndLoadsAreCounted) {
  const LayerWeights all = random_weights(small_layer(), 1, 0, 5);
  const auto slots = random_slots(16, 24, 3);
  const LayerWeights placed = weights_of_slots(all, slots);
  const CContext context = c_context();
  const swy_weight_views views = c_views(placed);
  const auto weights = made<CWeights>(
      [&](swy_weights** out) { return swy_weights_create(&views, nullptr, nullptr, out); });
  swy_weight_views seen;
  SWY_INIT(weight_views, seen);
  good(swy_weights_view(weights.get(), &seen));
  EXPECT_EQ(seen.num_slots, 24);
  swy_options options = c_options(64);
  options.placement = slots.data();
  options.num_slots = 24;
  options.count_loads = 1;
  const CLayer layer = c_layer(context.get(), small_layer(), weights.get(), options);
  const auto cpp = MoeLayer::create(small_layer(), all, small_options("auto"));
  SmallCall call(kTokens, std::random_device{}()), wanted = call;
  cpp->forward(wanted.with_ids());
  c_forward(layer.get(), call.with_ids());
  EXPECT_TRUE(same_bits(call.output, wanted.output));

  // Each expert keeps its first slot.
  auto fewer = slots;
  for (size_t s = 0; s < fewer.size(); ++s)
    if (std::find(fewer.begin(), fewer.begin() + static_cast<int64_t>(s), fewer[s]) !=
        fewer.begin() + static_cast<int64_t>(s))
      fewer[s] = -1;
  good(swy_layer_set_placement(layer.get(), fewer.data(), 24, nullptr));
  call.output = Buffer<Bf16>({kTokens, 128});
  c_forward(layer.get(), call.with_ids());
  EXPECT_TRUE(same_bits(call.output, wanted.output));
  EXPECT_EQ(swy_layer_set_placement(layer.get(), fewer.data(), 23, nullptr), SWY_SHAPE_MISMATCH);

  swy_tensor loads{};
  good(swy_layer_expert_loads(layer.get(), &loads));
  EXPECT_EQ(loads.dtype, SWY_I64);
  EXPECT_EQ(loads.shape[0], 16);
  std::vector<int64_t> expected(16);
  for (int64_t i = 0; i < call.ids.count(); ++i) expected[static_cast<size_t>(call.ids[i])] += 2;
  const auto* counted = static_cast<const int64_t*>(loads.data);
  EXPECT_EQ(std::vector<int64_t>(counted, counted + 16), expected);

  options.placement = nullptr;
  swy_layer* none = nullptr;
  const swy_config config = c_config(small_layer());
  EXPECT_EQ(swy_layer_create(context.get(), &config, weights.get(), nullptr, &options, &none),
            SWY_INVALID_ARGUMENT)
      << "slots without a placement";
}

int released = 0;

// The last layer is all that is left of what it was made of.
CLayer layer_on_its_own(const LayerWeights& views, const swy_options& given, bool copies) {
  const CContext context = c_context();
  const swy_weight_views c = c_views(views);
  const swy_config config = c_config(small_layer());
  const auto lent = made<CWeights>([&](swy_weights** out) {
    return swy_weights_create(
        &c, [](void* owner) { ++*static_cast<int*>(owner); }, &released, out);
  });
  swy_weight_views seen;
  SWY_INIT(weight_views, seen);
  good(swy_weights_view(lent.get(), &seen));
  EXPECT_EQ(std::memcmp(&seen, &c, sizeof c), 0);
  const auto copy = made<CWeights>([&](swy_weights** out) {
    return swy_weights_create_copy(context.get(), &config, 1, &seen, out);
  });
  const auto shared = made<CSharedWorkspace>([&](swy_shared_workspace** out) {
    return swy_shared_workspace_create(context.get(), 100, out);
  });
  swy_options options = given;
  if (options.workspace.data == nullptr && !options.workspace_per_call)
    options.shared_workspace = shared.get();
  return c_layer(context.get(), small_layer(), copies ? copy.get() : lent.get(), options);
}

TEST(CLayer, ALayerKeepsWhatItNeedsAndReleasesItOnce) {
  const uint64_t seed = std::random_device{}();
  const LayerWeights views = random_weights(small_layer(), 1, 0, seed);
  const auto cpp = MoeLayer::create(small_layer(), views, small_options("auto"));
  SmallCall wanted(kTokens, seed);
  cpp->forward(wanted.with_gate());

  const CContext context = c_context();
  const swy_config config = c_config(small_layer());
  const swy_options plain = c_options(64);
  size_t bytes = 0;
  good(swy_workspace_bytes(context.get(), &config, 1, &plain, &bytes));
  EXPECT_EQ(bytes, cpp->workspace_bytes());
  void* address = nullptr;
  const auto memory = made<CMemory>(
      [&](swy_memory** out) { return swy_memory_create(context.get(), bytes, out, &address); });
  swy_options lent = plain, per_call = plain;
  lent.workspace = {address, bytes};
  per_call.workspace_per_call = 1;

  for (const swy_options& options : {plain, lent, per_call})
    for (const bool copies : {false, true}) {
      released = 0;
      CLayer layer = layer_on_its_own(views, options, copies);
      EXPECT_EQ(released, copies ? 1 : 0);
      SmallCall call(kTokens, seed);
      ForwardArgs args = call.with_gate();
      if (options.workspace_per_call) args.workspace = {address, bytes};
      c_forward(layer.get(), args);
      EXPECT_TRUE(same_bits(call.output, wanted.output));
      EXPECT_EQ(released, copies ? 1 : 0);
      layer.reset();
      EXPECT_EQ(released, 1);
    }
}

TEST(CLayer, AWorkspaceThatIsGivenIsTheOneThatIsUsed) {
  const CContext context = c_context();
  const swy_config config = c_config(small_layer());
  swy_options options = c_options(64);
  size_t bytes = 0;
  good(swy_workspace_bytes(context.get(), &config, 1, &options, &bytes));
  void* address = nullptr;
  const auto memory = made<CMemory>(
      [&](swy_memory** out) { return swy_memory_create(context.get(), bytes, out, &address); });
  constexpr int32_t kUntouched = 0x11223344;
  const std::span words(static_cast<int32_t*>(address), bytes / sizeof(int32_t));
  const CWeights weights = c_random_weights(context.get(), small_layer(), 5);
  SmallCall call(kTokens);

  // Poison reaches every word of it.
  std::fill(words.begin(), words.end(), kUntouched);
  options.workspace = {address, bytes};
  options.poison_workspace = 1;
  const CLayer lent = c_layer(context.get(), small_layer(), weights.get(), options);
  c_forward(lent.get(), call.with_gate());
  EXPECT_EQ(std::count(words.begin(), words.end(), kUntouched), 0);

  options.workspace = {};
  options.poison_workspace = 0;
  options.workspace_per_call = 1;
  const CLayer per_call = c_layer(context.get(), small_layer(), weights.get(), options);
  const swy_forward_args without = c_args(call.with_gate());
  EXPECT_EQ(swy_layer_forward(per_call.get(), &without, nullptr), SWY_SHAPE_MISMATCH);
  EXPECT_TRUE(std::string(swy_last_error()).starts_with("forward: workspace is missing"))
      << swy_last_error();
}

TEST(CLayer, ErrorsOfRoutingComeFromWaitAndLeaveTheLayerUsable) {
  const CContext context = c_context();
  const CWeights weights = c_random_weights(context.get(), small_layer(), 5);
  const CLayer layer = c_layer(context.get(), small_layer(), weights.get(), c_options(64));
  SmallCall call(kTokens);
  const int32_t kept = call.ids[3];
  call.ids[3] = 16;
  const swy_forward_args args = c_args(call.with_ids());
  good(swy_layer_forward(layer.get(), &args, nullptr));
  EXPECT_EQ(swy_layer_wait(layer.get(), nullptr), SWY_BAD_ROUTING);
  EXPECT_TRUE(std::string(swy_last_error()).starts_with("forward: expert id=16 on rank 0, "));
  call.ids[3] = kept;
  c_forward(layer.get(), call.with_ids());
}

TEST(CMemory, CopiesGoThereAndBack) {
  const CContext context = c_context();
  void* address = nullptr;
  const auto memory = made<CMemory>(
      [&](swy_memory** out) { return swy_memory_create(context.get(), 48, out, &address); });
  EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % 128, 0u);
  const std::vector<float> values = random_f32({3, 4}, std::random_device{}()).values();
  std::vector<float> back(13, 42);
  const swy_tensor on_device = swy_matrix(address, 3, 4, SWY_F32, SWY_CPU);
  good(swy_copy_to_device(context.get(), &on_device, values.data(), nullptr));
  good(swy_copy_to_host(context.get(), back.data(), &on_device, nullptr));
  EXPECT_EQ(back.back(), 42);
  back.pop_back();
  EXPECT_EQ(back, values);
}

// One step of each operation over the same states; B 2, D 16, w 3, one token, blocks of 4 tokens.
struct Steps {
  explicit Steps(uint64_t seed)
      : x(random_bf16({2, 16}, seed)),
        conv_state(random_f32({5, 16, 2}, seed + 1)),
        weight(random_f32({16, 3}, seed + 2)),
        bias(random_f32({16}, seed + 3)),
        q(random_bf16({2, 1, 2, 8}, seed + 4)),
        k(random_bf16({2, 1, 2, 8}, seed + 5)),
        v(random_bf16({2, 1, 4, 8}, seed + 6)),
        g(random_f32({2, 1, 4}, seed + 7, -1, 0)),
        beta(random_f32({2, 1, 4}, seed + 8, 0, 1)),
        delta_state(random_f32({5, 4, 8, 8}, seed + 9)) {}

  StateMap map() {
    return {.sequence_lengths = ConstTensor(lengths.data(), {2}),
            .block_map = ConstTensor(block_map.data(), {2, 2}),
            .num_slots = 2,
            .row_stride = 2,
            .block_tokens = 4};
  }
  ConvDecode conv() {
    return {.output = conv_output.view(),
            .x = std::as_const(x).view(),
            .state = conv_state.view(),
            .weight = std::as_const(weight).view(),
            .bias = std::as_const(bias).view(),
            .activation = ConvActivation::Silu,
            .map = map()};
  }
  ConvPrefillStates prefill() {
    return {.state = conv_state.view(),
            .x = std::as_const(x).view(),
            .starts = ConstTensor(starts.data(), {3}),
            .prefix_lengths = ConstTensor(prefixes.data(), {2}),
            .map = map()};
  }
  DeltaRuleDecode delta() {
    DeltaRuleDecode step{.output = delta_output.view(),
                         .q = ConstTensor(q.view()),
                         .k = ConstTensor(k.view()),
                         .v = ConstTensor(v.view()),
                         .g = std::as_const(g).view(),
                         .beta = std::as_const(beta).view(),
                         .state = delta_state.view(),
                         .l2_normalize = true,
                         .map = map()};
    step.scale = 0.25f;
    return step;
  }
  bool operator==(const Steps& o) const {
    return same_bits(conv_output, o.conv_output) && same_bits(conv_state, o.conv_state) &&
           same_bits(delta_output, o.delta_output) && same_bits(delta_state, o.delta_state);
  }

  std::vector<int32_t> lengths{6, 1}, block_map{1, 2, 3, 4}, starts{0, 1, 2}, prefixes{4, 0};
  Buffer<Bf16> x;
  Buffer<float> conv_state, weight, bias;
  Buffer<Bf16> q, k, v;
  Buffer<float> g, beta, delta_state;
  Buffer<Bf16> conv_output{{2, 16}}, delta_output{{2, 1, 4, 8}};
};

swy_state_map c_map(const StateMap& from) {
  swy_state_map map{};
  map.sequence_lengths = c_tensor(from.sequence_lengths);
  map.block_map = c_tensor(from.block_map);
  map.num_slots = from.num_slots;  // row_stride 0: the same
  map.block_tokens = from.block_tokens;
  map.first_block = from.first_block;
  return map;
}

void run_in_c(swy_attention* attention, Steps& steps) {
  const ConvDecode conv = steps.conv();
  swy_conv_decode c;
  SWY_INIT(conv_decode, c);
  c.output = c_tensor(conv.output);
  c.x = c_tensor(conv.x);
  c.state = c_tensor(conv.state);
  c.weight = c_tensor(conv.weight);
  c.bias = c_tensor(conv.bias);
  c.activation = SWY_CONV_SILU;
  c.map = c_map(conv.map);
  good(swy_attention_conv_decode(attention, &c));

  const ConvPrefillStates prefill = steps.prefill();
  swy_conv_prefill_states p;
  SWY_INIT(conv_prefill_states, p);
  p.state = c_tensor(prefill.state);
  p.x = c_tensor(prefill.x);
  p.starts = c_tensor(prefill.starts);
  p.prefix_lengths = c_tensor(prefill.prefix_lengths);
  p.map = c_map(prefill.map);
  good(swy_attention_conv_prefill_states(attention, &p));

  const DeltaRuleDecode delta = steps.delta();
  swy_delta_rule_decode d;
  SWY_INIT(delta_rule_decode, d);
  d.output = c_tensor(delta.output);
  d.q = c_tensor(delta.q);
  for (int i = 0; i < 4; ++i) d.q.strides[i] = delta.q.stride(i);
  d.k = c_tensor(delta.k);
  d.v = c_tensor(delta.v);
  d.g = c_tensor(delta.g);
  d.beta = c_tensor(delta.beta);
  d.state = c_tensor(delta.state);
  d.l2_normalize = d.has_scale = 1;
  d.scale = 0.25f;
  d.map = c_map(delta.map);
  good(swy_attention_delta_rule_decode(attention, &d));
}

TEST(CAttention, StepsGiveTheBitsOfCppAndTheWordsOfSequences) {
  const uint64_t seed = std::random_device{}();
  Steps wanted(seed), steps(seed);
  const auto cpp = LinearAttention::create(make_cpu_backend(1), 3);
  cpp->conv_decode(wanted.conv());
  cpp->conv_prefill_states(wanted.prefill());
  cpp->delta_rule_decode(wanted.delta());
  cpp->wait();

  const CContext context = c_context(1);
  const auto attention = made<CAttention>(
      [&](swy_attention** out) { return swy_attention_create(context.get(), 3, out); });
  run_in_c(attention.get(), steps);
  good(swy_attention_wait(attention.get(), nullptr));
  EXPECT_TRUE(steps == wanted);

  steps.block_map[3] = 99;
  steps.lengths[1] = 6;
  run_in_c(attention.get(), steps);
  std::vector<int32_t> words(3, -1);
  good(swy_attention_wait_words(attention.get(), nullptr, words.data(), 3));
  EXPECT_EQ(words, (std::vector<int32_t>{0, SWY_READ_BLOCK | SWY_WRITE_BLOCK, 0}));
  run_in_c(attention.get(), steps);
  EXPECT_EQ(swy_attention_wait(attention.get(), nullptr), SWY_BAD_STATE);
  EXPECT_NE(std::string(swy_last_error()).find("sequence"), std::string::npos) << swy_last_error();
}

}  // namespace
}  // namespace switchyard
