// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/gate/gate_test.cc -- the gate of a layer against float64, and what it refuses.
#include "switchyard/gate.h"

#include <gtest/gtest.h>

#include <array>

#include "switchyard/error.h"
#include "switchyard/oracle.h"
#include "testing/buffer.h"

namespace switchyard {
namespace {

using testing::Buffer;

MoeConfig config_of(const GateConfig& gate, int64_t top_k = 4) {
  MoeConfig c;
  c.hidden = 256;
  c.intermediate = 8;
  c.num_experts = 48;
  c.top_k = top_k;
  c.gate = gate;
  c.router_bias = true;
  return c;
}

struct Workspaced {
  explicit Workspaced(size_t bytes) : memory(bytes + Workspace::kAlignment) {
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    view = {memory.data() + (Workspace::kAlignment - address % Workspace::kAlignment), bytes};
  }
  std::vector<std::byte> memory;
  Workspace view;
};

class GateRule : public ::testing::TestWithParam<GateConfig> {};

const GateConfig kRules[] = {
    {},
    {.renormalize = true},
    {.scoring = Scoring::SoftmaxOfTopK},
    {.scoring = Scoring::Sigmoid,
     .renormalize = true,
     .renormalize_epsilon = 1e-20f,
     .scale = 2.5f,
     .correction_bias = true,
     .num_groups = 8,
     .num_groups_kept = 3},
    {.scale = 16.0f, .num_groups = 8, .num_groups_kept = 3, .group_score = GroupScore::Max},
    {.scoring = Scoring::Sigmoid},
    {.scoring = Scoring::SparseMixer},
};
INSTANTIATE_TEST_SUITE_P(Rules, GateRule, ::testing::ValuesIn(kRules));

TEST_P(GateRule, AgreesWithFloat64) {
  constexpr int64_t kTokens = 200;
  const auto config = config_of(GetParam(), GetParam().scoring == Scoring::SparseMixer ? 2 : 4);
  const auto weights = random_weights(config, 1, 0, 11);
  const auto hidden = testing::random_bf16({kTokens, config.hidden}, 12, 2.0f);
  const auto gate = make_gate(config, weights.router, make_cpu_backend(2));
  const Workspaced workspace(gate->workspace_bytes(kTokens));
  Buffer<int32_t> ids({kTokens, config.top_k}), expected_ids({kTokens, config.top_k});
  Buffer<float> w({kTokens, config.top_k});
  Buffer<double> expected_w({kTokens, config.top_k});
  gate->choose(ids.view(), w.view(), hidden.view(), workspace.view, nullptr);
  oracle_gate(expected_ids.view(), expected_w.view(), config, weights.router, hidden.view());
  EXPECT_TRUE(ids.guards_intact() && w.guards_intact());
  // fp32 logits differ from float64 by 1e-6 or so: two experts closer than that may swap, which no
  // token of this seed does. The sparse mixer's cutoff can also fall between.
  for (int64_t i = 0; i < ids.count(); ++i) {
    EXPECT_EQ(ids[i], expected_ids[i]) << i;
    EXPECT_NEAR(w[i], expected_w[i], 2e-5 * std::abs(expected_w[i]) + 1e-6) << i;
  }
}

TEST(Gate, NoTokensAreFine) {
  const auto config = config_of({});
  const auto weights = random_weights(config, 1, 0, 1);
  const auto gate = make_gate(config, weights.router, make_cpu_backend(1));
  const Workspaced workspace(gate->workspace_bytes(0));
  Buffer<int32_t> ids({0, 4});
  Buffer<float> w({0, 4});
  Buffer<Bf16> hidden({0, 256});
  gate->choose(ids.view(), w.view(), std::as_const(hidden).view(), workspace.view, nullptr);
  EXPECT_TRUE(ids.guards_intact() && w.guards_intact());
}

TEST(Gate, RefusesWrongArgumentsWithTheirNames) {
  const auto config = config_of({});
  const auto weights = random_weights(config, 1, 0, 1);
  const auto gate = make_gate(config, weights.router, make_cpu_backend(1));
  const Workspaced workspace(gate->workspace_bytes(3));
  Buffer<int32_t> ids({3, 4});
  Buffer<float> w({3, 4});
  const auto hidden = testing::random_bf16({3, 256}, 1), narrow = testing::random_bf16({3, 248}, 1);
  const auto message = [&](Tensor i, Tensor k, ConstTensor h, Workspace space) -> std::string {
    try {
      gate->choose(i, k, h, space, nullptr);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch);
      return e.what();
    }
    return "";
  };
  EXPECT_NE(message(ids.view(), w.view(), narrow.view(), workspace.view).find("hidden"),
            std::string::npos);
  EXPECT_NE(message(w.view(), w.view(), hidden.view(), workspace.view).find("ids"),
            std::string::npos);
  EXPECT_NE(message(ids.view(), ids.view(), hidden.view(), workspace.view).find("weights"),
            std::string::npos);
  EXPECT_NE(message(ids.view(), w.view(), hidden.view(), {workspace.view.data, 64})
                .find("workspace: bytes=64"),
            std::string::npos);
  EXPECT_NE(message(ids.view(), w.view(), hidden.view(), {}).find("gate: workspace=null, need"),
            std::string::npos);
}

TEST(Gate, RefusesMemoryThatIsMissingOddOrSharedByTwo) {
  const auto weights = random_weights(config_of({}), 1, 0, 1);
  const auto gate = make_gate(config_of({}), weights.router, make_cpu_backend(1));
  const Workspaced workspace(gate->workspace_bytes(3));
  alignas(16) std::array<std::byte, 4096> memory{};
  const auto message = [&](void* ids, void* w, const void* hidden) -> std::string {
    try {
      gate->choose(Tensor(ids, DType::I32, {3, 4}), Tensor(w, DType::F32, {3, 4}),
                   ConstTensor(hidden, DType::Bf16, {3, 256}), workspace.view, nullptr);
    } catch (const Error& e) {
      return e.what();
    }
    return "none";
  };
  std::byte* const at = memory.data();  // hidden: 1536 bytes; the others 48 each
  EXPECT_EQ(message(at, at + 48, at + 96), "none");
  for (const auto& [ids, w, hidden, expected] :
       std::initializer_list<std::tuple<std::byte*, std::byte*, std::byte*, const char*>>{
           {nullptr, at + 48, at + 96, "gate: ids is null"},
           {at, nullptr, at + 96, "gate: weights is null"},
           {at, at + 48, nullptr, "gate: hidden is null"},
           {at + 2, at + 64, at + 128, "gate: ids address is not a multiple of 4"},
           {at, at + 48, at + 98, "gate: hidden address is not a multiple of 16"},
           {at, at + 48, at + 80, "gate: weights overlaps what is read"},
           {at + 1628, at + 48, at + 96, "gate: ids overlaps what is read"},
           {at, at + 44, at + 96, "gate: ids, weights or shared_weights overlap each other"}})
    EXPECT_NE(message(ids, w, hidden).find(expected), std::string::npos)
        << expected << " / " << message(ids, w, hidden);
}

TEST(Gate, RefusesARouterThatDoesNotFit) {
  auto config = config_of({});
  const auto weights = random_weights(config, 1, 0, 1);
  EXPECT_THROW(make_gate(config, {}, make_cpu_backend(1)), Error);
  config.gate.scoring = Scoring::Sigmoid;
  config.gate.correction_bias = true;  // which these weights lack
  try {
    make_gate(config, weights.router, make_cpu_backend(1));
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("correction bias is missing"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace switchyard
