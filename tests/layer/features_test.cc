// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/features_test.cc -- what few models have, against the float64 oracle: every layout,
// dispatcher and number of ranks, with and without the gate.
#include <gtest/gtest.h>

#include <cmath>

#include "switchyard/error.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/layer_features.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::LayerFeature;

constexpr int64_t kTokens = 37;

class Features : public ::testing::TestWithParam<LayerFeature> {
 protected:
  const MoeConfig& config() const { return GetParam().config; }
  LayerOptions options(const std::string& strategy, int tp_size = 1) const {
    LayerOptions o;
    o.max_tokens = kTokens;
    o.strategy = strategy;
    o.tp_size = tp_size;
    o.num_threads = 1;
    return o;
  }
  ConstTensor token_ids_of(const Buffer<int64_t>& ids) const {
    return config().gate.vocabulary > 0 ? ids.view() : ConstTensor();
  }
  Buffer<double> oracle(const Buffer<Bf16>& hidden, const Buffer<int64_t>& token_ids) const {
    Buffer<double> expected(hidden.view().shape);
    oracle_forward(expected.view(), config(), random_weights(config(), 1, 0, 11), hidden.view(), {},
                   {}, token_ids_of(token_ids));
    return expected;
  }
};
INSTANTIATE_TEST_SUITE_P(All, Features, ::testing::ValuesIn(testing::layer_features()),
                         [](const auto& info) { return info.param.name; });

// A path around the experts rounds their rows once more, which both halves of W1 read: two errors
// of 2^-9 / sqrt(3) each that come to those of a layer without one.
double tolerance_of(const MoeConfig& c) {
  constexpr double kRounding = 0x1p-9 / 1.7320508;
  return c.path.present() ? std::hypot(4e-3, 2 * kRounding, 2 * kRounding) : 4e-3;
}

void expect_close(const Buffer<Bf16>& output, const Buffer<double>& expected,
                  const MoeConfig& config, const std::string& what) {
  const auto d = compare(output.view(), expected.view());
  EXPECT_LE(d.rel_error, tolerance_of(config)) << what;
  EXPECT_LE(d.max_row_error, 2e-2) << what << ", row " << d.worst_row;
}

TEST_P(Features, AreCloseToFloat64OnEveryRankAndStrategy) {
  for (const int ranks : {1, 2, 4})
    for (const std::string strategy :
         {"contiguous", "masked", "normal+hybrid", "all_gather+contiguous"}) {
      if (ranks == 1 && strategy.find('+') != std::string::npos) continue;
      run_local_ranks(ranks, [&](Communicator& comm) {
        const int64_t tokens = std::max<int64_t>(0, kTokens - 18 * comm.rank());
        const auto seed = static_cast<uint64_t>(comm.rank());
        const auto hidden = testing::random_bf16({tokens, config().hidden}, 5 + seed);
        const auto ids = testing::token_ids_for(config(), tokens, 6 + seed);
        const auto layer = MoeLayer::create(
            config(), random_weights(config(), ranks, comm.rank(), 11), comm, options(strategy));
        Buffer<Bf16> output({tokens, config().hidden});
        layer->forward(
            {.output = output.view(), .hidden = hidden.view(), .token_ids = token_ids_of(ids)});
        layer->wait();
        EXPECT_TRUE(output.guards_intact());
        if (tokens > 0)
          expect_close(output, oracle(hidden, ids), config(),
                       strategy + " of " + std::to_string(ranks) + " ranks");
      });
    }
}

TEST_P(Features, TensorParallelGroupsAndLayoutsGiveTheSameBits) {
  std::vector<Buffer<Bf16>> outputs;
  const auto hidden = testing::random_bf16({kTokens, config().hidden}, 5);
  const auto ids = testing::token_ids_for(config(), kTokens, 6);
  const auto run = [&](int ranks, const std::string& strategy, int tp_size) {
    Buffer<Bf16> kept({kTokens, config().hidden});
    run_local_ranks(ranks, [&](Communicator& comm) {
      const auto layer =
          MoeLayer::create(config(), random_weights(config(), ranks, comm.rank(), 11), comm,
                           options(strategy, tp_size));
      Buffer<Bf16> output({kTokens, config().hidden});
      layer->forward(
          {.output = output.view(), .hidden = hidden.view(), .token_ids = token_ids_of(ids)});
      layer->wait();
      if (comm.rank() == 0) kept = output;
    });
    return kept;
  };
  EXPECT_TRUE(same_bits(run(1, "masked", 1), run(1, "contiguous", 1)));
  const auto pair = run(2, "normal+contiguous", 1);
  EXPECT_TRUE(same_bits(run(2, "normal+masked", 2), pair));
  EXPECT_TRUE(same_bits(run(2, "local+contiguous", 2), pair));
}

TEST_P(Features, TheGateChoosesAndWeighsAsInFloat64) {
  const MoeConfig& c = config();
  const auto weights = random_weights(c, 1, 0, 11);
  const auto hidden = testing::random_bf16({kTokens, c.hidden}, 5);
  const auto tokens = testing::token_ids_for(c, kTokens, 6);
  auto layer = MoeLayer::create(c, weights, options("auto"));
  Buffer<float> scratch({static_cast<int64_t>(layer->gate().workspace_bytes(kTokens) / 4) + 32});
  const auto address = (reinterpret_cast<uintptr_t>(scratch.data()) + 127) / 128 * 128;
  Buffer<int32_t> ids({kTokens, c.top_k}), expected_ids({kTokens, c.top_k});
  Buffer<float> w({kTokens, c.top_k}), shared({kTokens, std::max<int64_t>(1, c.shared.num_scored)});
  Buffer<double> expected({kTokens, c.top_k});
  Gate::Choice choice{.ids = ids.view(), .weights = w.view(), .token_ids = token_ids_of(tokens)};
  if (c.shared.num_scored > 0) choice.shared_weights = shared.view();
  layer->gate().choose(choice, hidden.view(),
                       {reinterpret_cast<void*>(address), layer->gate().workspace_bytes(kTokens)},
                       nullptr);
  oracle_gate(expected_ids.view(), expected.view(), c, weights.router, hidden.view(),
              token_ids_of(tokens));
  for (int64_t i = 0; i < ids.count(); ++i) {
    ASSERT_EQ(ids[i], expected_ids[i]) << "slot " << i;
    EXPECT_NEAR(w[i], expected[i], 2e-5 * (1 + std::abs(expected[i]))) << "slot " << i;
  }
}

TEST_P(Features, RunInExactlyTheirWorkspace) {
  auto o = options("auto");
  const size_t bytes = MoeLayer::workspace_bytes(config(), 1, o);
  Buffer<Bf16> memory({static_cast<int64_t>(bytes / 2) + 64});
  const auto address = (reinterpret_cast<uintptr_t>(memory.data()) + 127) / 128 * 128;
  o.workspace = {reinterpret_cast<void*>(address), bytes};
  auto layer = MoeLayer::create(config(), random_weights(config(), 1, 0, 11), o);
  const auto hidden = testing::random_bf16({kTokens, config().hidden}, 5);
  const auto ids = testing::token_ids_for(config(), kTokens, 6);
  Buffer<Bf16> output({kTokens, config().hidden});
  const ForwardArgs args{
      .output = output.view(), .hidden = hidden.view(), .token_ids = token_ids_of(ids)};
  layer->forward(args);
  layer->wait();
  EXPECT_TRUE(memory.guards_intact() && output.guards_intact());
  expect_close(output, oracle(hidden, ids), config(), "lent memory");
}

// ---- by hand

Buffer<Bf16> forward(const MoeConfig& c, ForwardArgs args) {
  LayerOptions o;
  o.max_tokens = kTokens;
  o.num_threads = 1;
  auto layer = MoeLayer::create(c, random_weights(c, 1, 0, 11), o);
  Buffer<Bf16> output({args.hidden.dim(0), c.hidden});
  args.output = output.view();
  layer->forward(args);
  layer->wait();
  return output;
}

MoeConfig feature(const std::string& name) {
  for (const auto& f : testing::layer_features())
    if (f.name == name) return f.config;
  throw std::runtime_error(name);
}

TEST(ZeroExperts, ReturnTheirInputAndCostNoRow) {
  const MoeConfig c = feature("zero_experts");
  const auto hidden = testing::random_bf16({3, c.hidden}, 5);
  Buffer<int64_t> ids({3, c.top_k});
  Buffer<float> weights({3, c.top_k});
  for (int64_t i = 0; i < ids.count(); ++i) {
    ids[i] = i < c.top_k ? c.num_experts + i : i < 2 * c.top_k ? -1 : c.num_experts + 7;
    weights[i] = 0.25f;
  }
  const auto output = forward(
      c, {.hidden = hidden.view(), .ids = std::as_const(ids).view(), .weights = weights.view()});
  for (int64_t h = 0; h < c.hidden; ++h) {
    EXPECT_EQ(output[h].bits(), Bf16(1.5f * static_cast<float>(hidden[h])).bits());
    EXPECT_EQ(static_cast<float>(output[c.hidden + h]), 0.0f);
    EXPECT_EQ(output[2 * c.hidden + h].bits(),
              Bf16(1.5f * static_cast<float>(hidden[2 * c.hidden + h])).bits());
  }
  ids[0] = c.num_choices();
  EXPECT_THROW(forward(c, {.hidden = hidden.view(),
                           .ids = std::as_const(ids).view(),
                           .weights = weights.view()}),
               Error);
}

TEST(F32Sums, GiveAnUnroundedOutputOnEveryRankAndInTensorParallelGroups) {
  MoeConfig c = testing::sigmoid_layer();
  c.f32_sums = true;
  const auto hidden = testing::random_bf16({kTokens, c.hidden}, 5);
  Buffer<double> expected({kTokens, c.hidden});
  oracle_forward(expected.view(), c, random_weights(c, 1, 0, 11), hidden.view());
  for (const auto& [ranks, tp_size] : {std::pair{1, 1}, {2, 1}, {4, 2}})
    run_local_ranks(ranks, [&, ranks = ranks, tp_size = tp_size](Communicator& comm) {
      LayerOptions o;
      o.max_tokens = kTokens;
      o.num_threads = 1;
      o.tp_size = tp_size;
      auto layer = MoeLayer::create(c, random_weights(c, ranks, comm.rank(), 11), comm, o);
      Buffer<float> output({kTokens, c.hidden});
      layer->forward({.output = output.view(), .hidden = hidden.view()});
      layer->wait();
      EXPECT_TRUE(output.guards_intact());
      const auto d = compare(std::as_const(output).view(), std::as_const(expected).view());
      EXPECT_LE(d.rel_error, ranks == 1 ? 2.2e-3 : 3e-3) << ranks << " ranks, tp " << tp_size;
      Buffer<Bf16> narrow({kTokens, c.hidden});
      EXPECT_THROW(layer->forward({.output = narrow.view(), .hidden = hidden.view()}), Error);
    });
}

template <class Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(TokenIds, AreNeededByLayersThatChooseByThemAndRefusedByOthers) {
  const MoeConfig c = feature("chosen_by_token");
  const auto hidden = testing::random_bf16({3, c.hidden}, 5);
  EXPECT_NE(refusal([&] {
              forward(c, {.hidden = hidden.view()});
            }).find("token_ids is missing, need i32 or i64 [3]"),
            std::string::npos);
  Buffer<int64_t> ids({3});
  ids[0] = 0, ids[1] = 49, ids[2] = 50;
  const ForwardArgs args{.hidden = hidden.view(), .token_ids = std::as_const(ids).view()};
  EXPECT_NE(refusal([&] { forward(c, args); }).find("a token is outside its vocabulary"),
            std::string::npos)
      << "50 is no token";
  ids[2] = -1;
  EXPECT_THROW(forward(c, args), Error);
  ids[2] = 7;
  EXPECT_NO_THROW(forward(c, args));
  EXPECT_NE(refusal([&] { forward(testing::plain_layer(), args); }).find("chooses by scores"),
            std::string::npos);
}

TEST(ScoredSharedExperts, NeedTheGate) {
  const MoeConfig c = feature("scored_shared");
  const auto hidden = testing::random_bf16({3, c.hidden}, 5);
  const auto ids = testing::random_ids(3, c.num_experts, c.top_k, testing::Skew::Balanced, 1);
  const auto weights = testing::random_f32({3, c.top_k}, 2, 0.1f, 1.0f);
  EXPECT_NE(refusal([&] {
              forward(c, {.hidden = hidden.view(), .ids = ids.view(), .weights = weights.view()});
            }).find("weighs its 2 shared experts"),
            std::string::npos);
}

TEST(Features, CombinationsThatNoModelHasAreRefused) {
  const auto refused = [](const char* base, auto change, const char* expected) {
    MoeConfig c = feature(base);
    EXPECT_NO_THROW(validate(c));
    change(c);
    EXPECT_NE(refusal([&] { validate(c); }).find(expected), std::string::npos)
        << refusal([&] { validate(c); });
  };
  refused(
      "zero_experts", [](MoeConfig& c) { c.shared.intermediate = 8; }, "num_zero_experts=8");
  refused(
      "zero_experts", [](MoeConfig& c) { c.path.latent = 8; }, "num_zero_experts=8");
  refused(
      "zero_experts", [](MoeConfig& c) { c.gate.num_groups = 4; }, "no group");
  refused(
      "zero_experts", [](MoeConfig& c) { c.gate.num_zero_experts = -1; }, "zero_experts=-1");
  refused(
      "chosen_by_token", [](MoeConfig& c) { c.gate.correction_bias = true; }, "by token id");
  refused(
      "chosen_by_token", [](MoeConfig& c) { c.gate.vocabulary = -1; }, "vocabulary=-1");
  refused(
      "scored_shared", [](MoeConfig& c) { c.shared.num_scored = 3; }, "num_scored=3");
  refused(
      "scored_shared", [](MoeConfig& c) { c.gate.renormalize = false; }, "num_scored=2");
  refused(
      "scored_shared", [](MoeConfig& c) { c.path.latent = 8; }, "num_scored=2");
  refused(
      "latent", [](MoeConfig& c) { c.path.latent = 12; }, "latent=12");
  refused(
      "latent", [](MoeConfig& c) { c.path.input_norm = true; }, "latent=64");
  refused(
      "norms_around", [](MoeConfig& c) { c.shared.intermediate = 8; }, "intermediate=8");
  refused(
      "norms_around", [](MoeConfig& c) { c.path.norm_epsilon = -1; }, "norm_epsilon=-1");
  refused(
      "logit_softcap", [](MoeConfig& c) { c.gate.logit_softcap = -1; }, "softcap=-1");
  refused(
      "situ", [](MoeConfig& c) { c.activation.alpha = 0; }, "alpha=0");
  refused(
      "clamped_silu", [](MoeConfig& c) { c.activation.limit = 0; }, "limit=0");
}

}  // namespace
}  // namespace switchyard
