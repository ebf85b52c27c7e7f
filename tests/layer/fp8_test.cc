// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/fp8_test.cc -- layers with experts in f8_e4m3: against float64 with rows that are
// quantised as docs/design/fp8.md says, against float64 without, and bit by bit against themselves.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "switchyard/error.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/checkpoints.h"
#include "testing/f8_e4m3.h"
#include "testing/f8_weights.h"
#include "testing/family_definitions.h"
#include "testing/peer_dispatch.h"
#include "testing/routing.h"
#include "testing/small_layer.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using testing::Buffer;

constexpr int64_t kWhole = ScaleBlock::kWhole;

// Groups that end inside a row, and more than one of them, on both sides.
MoeConfig layer_config() {
  MoeConfig c;
  c.hidden = 264;
  c.intermediate = 200;
  c.num_experts = 8;
  c.top_k = 3;
  return c;
}

struct Blocks {
  const char* name;
  ScaleBlock w1, w2;
};
// Of gate and up with one scale each: 200 rows of W1.
const Blocks kBlocks[] = {{"block", {8, 128}, {128, 128}},
                          {"channel", {1, kWhole}, {1, kWhole}},
                          {"tensor", {200, kWhole}, {kWhole, kWhole}},
                          {"wide", {400, 256}, {264, kWhole}}};

struct Call {
  Call(const MoeConfig& c, int64_t num_tokens, uint64_t seed = 1)
      : hidden(testing::random_bf16({num_tokens, c.hidden}, seed, 2.0f)),
        ids(testing::random_ids(num_tokens, c.num_experts, c.top_k, testing::Skew::Balanced, seed)),
        weights(testing::random_f32({num_tokens, c.top_k}, seed, 0.1f, 1.0f)),
        output({num_tokens, c.hidden}) {}

  ForwardArgs args() {
    return {.output = output.view(),
            .hidden = std::as_const(hidden).view(),
            .ids = std::as_const(ids).view(),
            .weights = std::as_const(weights).view()};
  }
  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<Bf16> output;
};

LayerOptions options_of(const std::string& strategy, int threads = 2,
                        CpuForm form = CpuForm::Fast) {
  LayerOptions o = testing::small_options(strategy);
  o.num_threads = 0;
  o.backend = make_cpu_backend(threads, form);
  return o;
}

void run(Call& call, const MoeConfig& c, const LayerWeights& w, const LayerOptions& options) {
  const auto layer = MoeLayer::create(c, w, options);
  layer->forward(call.args());
  layer->wait();
  EXPECT_TRUE(call.output.guards_intact());
}

// ---- the layer in float64, with rows that are quantised

using Row = std::vector<double>;

// Q128 as numbers.
Row quantised(const Row& x) {
  Row q(x.size());
  for (size_t first = 0; first < x.size(); first += 128) {
    const size_t end = std::min(first + 128, x.size());
    double most = 0;
    for (size_t i = first; i < end; ++i) most = std::max(most, std::abs(x[i]));
    const auto scale = static_cast<float>(std::max(most, double{1e-10f}) / 448);
    for (size_t i = first; i < end; ++i) {
      const auto quotient = static_cast<float>(x[i] / double{scale});
      q[i] = testing::e4m3_value(testing::nearest_e4m3(quotient)) * double{scale};
    }
  }
  return q;
}

// W x of expert e, without a bias.
Row multiply(ConstTensor w, const BlockScales& scales, int64_t e, const Row& x) {
  const int64_t n = w.dim(1), k = w.dim(2);
  const auto in_blocks = [](int64_t at, int64_t size) { return size == kWhole ? 0 : at / size; };
  Row y(static_cast<size_t>(n), 0);
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < k; ++i) {
      const int64_t row = e * scales.values.dim(1) + in_blocks(j, scales.block.rows);
      const int64_t at = row * scales.values.dim(2) + in_blocks(i, scales.block.cols);
      y[static_cast<size_t>(j)] += testing::e4m3_value(w.as<F8E4m3>()[(e * n + j) * k + i].bits()) *
                                   double{scales.values.as<float>()[at]} *
                                   x[static_cast<size_t>(i)];
    }
  return y;
}

// SiluGated, weights on the output.
Buffer<double> defined_output(const MoeConfig& c, const ExpertWeights& w, const Call& call) {
  Buffer<double> out(call.hidden.view().shape);
  const int64_t num_tokens = call.hidden.count() / c.hidden;
  for (int64_t t = 0; t < num_tokens; ++t) {
    Row x, sum(static_cast<size_t>(c.hidden), 0);
    for (int64_t h = 0; h < c.hidden; ++h)
      x.push_back(static_cast<float>(call.hidden[t * c.hidden + h]));
    x = quantised(x);
    for (int64_t s = t * c.top_k; s < (t + 1) * c.top_k; ++s) {
      const Row sums = multiply(w.w1, w.w1_scales, call.ids[s], x);
      Row y(static_cast<size_t>(c.intermediate));
      for (size_t i = 0; i < y.size(); ++i)
        y[i] = static_cast<float>(sums[i] / (1 + std::exp(-sums[i])) * sums[i + y.size()]);
      const Row row = multiply(w.w2, w.w2_scales, call.ids[s], quantised(y));
      for (size_t h = 0; h < row.size(); ++h) sum[h] += double{call.weights[s]} * row[h];
    }
    std::copy(sum.begin(), sum.end(), out.data() + t * c.hidden);
  }
  return out;
}

class Fp8Layer : public ::testing::TestWithParam<Blocks> {
 protected:
  LayerWeights weights(const MoeConfig& c) const {
    return testing::f8_weights(random_weights(c, 1, 0, 3), GetParam().w1, GetParam().w2);
  }
};
INSTANTIATE_TEST_SUITE_P(All, Fp8Layer, ::testing::ValuesIn(kBlocks),
                         [](const auto& info) { return std::string(info.param.name); });

// What differs: fp32 sums, so that a few codes of the row between the GEMMs are the neighbours, and
// two roundings to bf16, 2^-9 / sqrt(3) each of a row's length.
TEST_P(Fp8Layer, IsItsDefinitionInFloat64) {
  const MoeConfig c = layer_config();
  const LayerWeights w = weights(c);
  for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
    Call call(c, 29);
    run(call, c, w, options_of(strategy));
    const auto d = compare(call.output.view(), defined_output(c, w.experts, call).view());
    EXPECT_LE(d.calc_diff, 1e-5) << strategy;
    EXPECT_LE(d.rel_error, 4e-3) << strategy;
  }
}

// Against the same weights with rows that are not quantised; the bound of every published test.
TEST_P(Fp8Layer, IsCloseToFloat64OfItsWeights) {
  const MoeConfig c = layer_config();
  const LayerWeights w = weights(c);
  Call call(c, 40, 5);
  run(call, c, w, options_of("contiguous"));
  Buffer<double> expected({40, c.hidden});
  oracle_forward(expected.view(), c, w, std::as_const(call.hidden).view(),
                 std::as_const(call.ids).view(), std::as_const(call.weights).view());
  EXPECT_LE(compare(call.output.view(), expected.view()).calc_diff, 3e-3);
}

TEST_P(Fp8Layer, EveryLayoutFormAndNumberOfThreadsGivesTheSameBits) {
  const MoeConfig c = layer_config();
  const LayerWeights w = weights(c);
  Call expected(c, 33);
  run(expected, c, w, options_of("contiguous", 1, CpuForm::Plain));
  for (const char* strategy : {"contiguous", "masked", "hybrid"})
    for (const int threads : {1, 3}) {
      Call call(c, 33);
      run(call, c, w, options_of(strategy, threads));
      EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << strategy << threads;
    }
}

TEST_P(Fp8Layer, ATokenHasTheSameBitsAloneAndInABatch) {
  const MoeConfig c = layer_config();
  const LayerWeights w = weights(c);
  Call all(c, 50);
  run(all, c, w, options_of("contiguous"));
  const auto layer = MoeLayer::create(c, w, options_of("masked"));
  for (int64_t t = 0; t < 50; ++t) {
    Buffer<Bf16> output({1, c.hidden});
    const ForwardArgs args = all.args();
    layer->forward({.output = output.view(),
                    .hidden = args.hidden.rows(t, 1),
                    .ids = args.ids.rows(t, 1),
                    .weights = args.weights.rows(t, 1)});
    layer->wait();
    EXPECT_EQ(std::memcmp(output.data(), all.output.data() + t * c.hidden,
                          static_cast<size_t>(c.hidden) * sizeof(Bf16)),
              0)
        << t;
  }
}

// What `bench` asks of a preset's experts in fp8: above what Q128 takes of two rows, below what a
// wrong scale does.
TEST(Fp8, RandomExpertsAreAsFarFromFloat64AsTwoQuantisersMoveThem) {
  MoeConfig c = layer_config();
  c.hidden = 1024, c.intermediate = 512;
  const LayerWeights w = random_weights(c, 1, 0, 3, fp8_blocks(c));
  Call call(c, 16);
  run(call, c, w, options_of("contiguous"));
  Buffer<double> expected({16, c.hidden});
  const auto error_of = [&](const LayerWeights& of) {
    oracle_forward(expected.view(), c, of, std::as_const(call.hidden).view(),
                   std::as_const(call.ids).view(), std::as_const(call.weights).view());
    return compare(call.output.view(), expected.view()).rel_error;
  };
  EXPECT_GT(error_of(w), 3e-2);
  EXPECT_LT(error_of(w), 5e-2);
  Buffer<float> shifted(w.experts.w1_scales.values.shape);  // of the block before
  const auto* scales = w.experts.w1_scales.values.as<float>();
  for (int64_t i = 0; i < shifted.count(); ++i) shifted[i] = scales[i == 0 ? 0 : i - 1];
  LayerWeights wrong = w;
  wrong.experts.w1_scales.values = std::as_const(shifted).view();
  EXPECT_GT(error_of(wrong), 0.2);
}

// Everything else of a layer is as with bf16 experts.
TEST(Fp8, GateSharedExpertsBiasesOrdersAndActivationsAreThoseOfBf16) {
  for (const auto kind :
       {ActivationKind::SiluGated, ActivationKind::ClampedSwiglu, ActivationKind::Relu2})
    for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate}) {
      MoeConfig c = layer_config();
      c.activation = {kind, 1.702f, 3.0f};
      c.expert_bias = true;
      c.shared = {.intermediate = 48, .sigmoid_gated = true};
      const ScaleBlock rows{c.intermediate, kWhole};
      LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 4), rows, {128, 128});
      if (c.activation.gated()) w.experts.order = order;
      const auto hidden = testing::random_bf16({31, c.hidden}, 6);
      Buffer<Bf16> output({31, c.hidden});
      Buffer<double> expected({31, c.hidden});
      const auto layer = MoeLayer::create(c, w, options_of("contiguous"));
      layer->forward({.output = output.view(), .hidden = hidden.view()});
      layer->wait();
      oracle_forward(expected.view(), c, w, hidden.view());
      EXPECT_LE(compare(output.view(), expected.view()).calc_diff, 3e-3) << activation_name(kind);
    }
}

TEST(Fp8, AWeightOnTheInputScalesTheSums) {
  MoeConfig c = layer_config();
  c.top_k = 1;
  c.router_weight_on_input = true;
  c.gate.scoring = Scoring::Sigmoid;
  const LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 4), {8, 128}, {128, 128});
  Call call(c, 40);
  run(call, c, w, options_of("contiguous"));
  Buffer<double> expected({40, c.hidden});
  oracle_forward(expected.view(), c, w, std::as_const(call.hidden).view(),
                 std::as_const(call.ids).view(), std::as_const(call.weights).view());
  EXPECT_LE(compare(call.output.view(), expected.view()).calc_diff, 3e-3);
}

TEST(Fp8, ANaNOfAHiddenStateStaysWithItsToken) {
  const MoeConfig c = layer_config();
  const LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 3), {8, 128}, {128, 128});
  Call call(c, 9);
  call.hidden[4 * c.hidden + 130] = Bf16(std::nanf(""));
  run(call, c, w, options_of("masked"));
  for (int64_t i = 0; i < call.output.count(); ++i)
    EXPECT_EQ(std::isnan(static_cast<float>(call.output[i])), i / c.hidden == 4) << i;
}

TEST(Fp8, RunsInLentMemoryOfExactlyWorkspaceBytes) {
  const MoeConfig c = layer_config();
  const LayerWeights w = testing::f8_weights(random_weights(c, 1, 0, 3), {8, 128}, {128, 128});
  for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
    Call expected(c, 33), call(c, 33);
    run(expected, c, w, options_of(strategy));
    LayerOptions options = options_of(strategy);
    options.experts = DType::F8E4m3;
    const size_t bytes = MoeLayer::workspace_bytes(c, 1, options);
    Buffer<double> memory({static_cast<int64_t>(bytes / 8) + 32});
    auto* first = reinterpret_cast<std::byte*>(memory.data());
    first += (128 - reinterpret_cast<uintptr_t>(first) % 128) % 128;
    options.workspace = {first, bytes};
    run(call, c, w, options);
    EXPECT_TRUE(testing::same_bits(call.output, expected.output)) << strategy;
    EXPECT_TRUE(memory.guards_intact());
  }
}

// ---- several ranks

// Rank r's tokens, over `ranks` threads, with the strategy; options.tp_size of them hold the same.
std::vector<Buffer<Bf16>> run_ranks(int ranks, const LayerOptions& options, const Blocks& blocks,
                                    int64_t num_tokens, bool odd_rows = false) {
  const MoeConfig c = layer_config();
  std::vector<Buffer<Bf16>> outputs(static_cast<size_t>(ranks));
  run_local_ranks(ranks, [&](Communicator& comm) {
    const auto w =
        testing::f8_weights(random_weights(c, ranks, comm.rank(), 3), blocks.w1, blocks.w2);
    Call call(c, num_tokens, static_cast<uint64_t>(comm.rank() / options.tp_size + 1));
    if (odd_rows) testing::mark_odd_rows(call.hidden, c.hidden);
    for (int64_t i = 0; odd_rows && i < call.ids.count(); i += 5) call.ids[i] = -1;
    const auto layer = MoeLayer::create(c, w, comm, options);
    layer->forward(call.args());
    layer->wait();
    EXPECT_TRUE(call.output.guards_intact());
    outputs[static_cast<size_t>(comm.rank())] = std::move(call.output);
  });
  return outputs;
}

// Q128 looks at a row alone: rows that travelled have the codes of those that did not. What a rank
// sums of a token's experts is rounded once more than on one rank.
TEST_P(Fp8Layer, EveryRankGivesItsDefinitionInFloat64) {
  const MoeConfig c = layer_config();
  const LayerWeights whole = weights(c);
  for (const int ranks : {2, 4})
    for (const char* strategy : {"normal+contiguous", "normal+masked", "normal+hybrid",
                                 "all_gather+contiguous", "local+contiguous"}) {
      LayerOptions options = testing::small_options(strategy);
      options.tp_size = std::string(strategy).starts_with("local") ? ranks : 1;
      const auto outputs = run_ranks(ranks, options, GetParam(), 29);
      for (int r = 0; r < ranks; ++r) {
        Call call(c, 29, static_cast<uint64_t>(r / options.tp_size + 1));
        const auto d = compare(outputs[static_cast<size_t>(r)].view(),
                               defined_output(c, whole.experts, call).view());
        EXPECT_LE(d.calc_diff, 2e-5) << strategy << " of " << ranks << ", rank " << r;
        EXPECT_LE(d.rel_error, 6e-3) << strategy << " of " << ranks << ", rank " << r;
      }
    }
}

TEST_P(Fp8Layer, RanksGiveTheSameBitsInEveryLayoutAndBatch) {
  const auto of = [&](const char* strategy, int64_t num_tokens) {
    return run_ranks(2, testing::small_options(strategy), GetParam(), num_tokens);
  };
  const auto expected = of("normal+contiguous", 33);
  for (const char* strategy : {"normal+masked", "normal+hybrid"}) {
    const auto outputs = of(strategy, 33);
    for (const size_t r : {0, 1})
      EXPECT_TRUE(testing::same_bits(outputs[r], expected[r])) << strategy << ", rank " << r;
  }
}

// What travels is the codes and scales that the owner would make, of any row.
TEST_P(Fp8Layer, RowsThatTravelInF8GiveTheBitsOfRowsInBf16) {
  struct Run {
    int ranks, tp_size;
    const char* strategy;
  };
  for (const Run& r :
       {Run{2, 1, "normal+contiguous"}, Run{2, 1, "normal+masked"}, Run{2, 2, "normal+contiguous"},
        Run{2, 1, "all_gather+hybrid"}, Run{4, 1, "normal+contiguous"}, Run{4, 2, "normal+masked"},
        Run{4, 1, "all_gather+contiguous"}, Run{2, 1, "low_latency+contiguous"},
        Run{4, 2, "low_latency+masked"}})
    for (const int64_t num_tokens : {0, 31}) {
      LayerOptions options = testing::small_options(r.strategy);
      options.tp_size = r.tp_size;
      const auto f8 = run_ranks(r.ranks, options, GetParam(), num_tokens, true);
      options.fp8_rows = false;
      const auto bf16 = run_ranks(r.ranks, options, GetParam(), num_tokens, true);
      for (size_t rank = 0; rank < f8.size(); ++rank)
        EXPECT_TRUE(testing::same_bits(f8[rank], bf16[rank]))
            << r.strategy << ", " << r.ranks << " ranks, tp " << r.tp_size << ", rank " << rank;
    }
}

TEST(Fp8, TheStrategySaysWhatRowsTravelAs) {
  const auto rows_of = [](int ranks, const char* strategy, bool fp8_rows) {
    DType seen = DType::F32;
    run_local_ranks(ranks, [&](Communicator& comm) {
      LayerOptions options = testing::small_options(strategy);
      options.fp8_rows = fp8_rows;
      if (std::string(strategy).starts_with("local")) options.tp_size = ranks;
      const MoeConfig c = layer_config();
      const auto w =
          testing::f8_weights(random_weights(c, ranks, comm.rank(), 3), {8, 128}, {8, 128});
      const auto layer = MoeLayer::create(c, w, comm, options);
      if (comm.rank() == 0) seen = layer->strategy().rows;
    });
    return seen;
  };
  EXPECT_EQ(rows_of(2, "normal+contiguous", true), DType::F8E4m3);
  EXPECT_EQ(rows_of(2, "all_gather+masked", true), DType::F8E4m3);
  EXPECT_EQ(rows_of(2, "low_latency+masked", true), DType::F8E4m3);
  EXPECT_EQ(rows_of(2, "normal+contiguous", false), DType::Bf16);
  EXPECT_EQ(rows_of(2, "low_latency+masked", false), DType::Bf16);
  EXPECT_EQ(rows_of(2, "local+contiguous", true), DType::Bf16);
  EXPECT_EQ(rows_of(1, "local+contiguous", true), DType::Bf16);
}

// ---- checkpoints: trained weights, quantised

TEST(Fp8, TrainedExpertsAreWithinThePublishedBoundOfFloat64) {
  for (const auto& each : testing::shared_oracle_cases()) {
    const MoeConfig c = each.checkpoint->config(each.layer);
    const LayerWeights bf16 = each.checkpoint->load_layer(each.layer, 1, 0);
    const LayerWeights w =
        testing::f8_weights(bf16, {std::gcd<int64_t>(128, c.intermediate), 128}, {128, 128});
    const auto hidden = each.input();
    LayerOptions options = options_of("contiguous");
    options.max_tokens = hidden.view().dim(0);
    Buffer<Bf16> output(hidden.view().shape);
    const auto layer = MoeLayer::create(c, w, options);
    layer->forward(
        {.output = output.view(), .hidden = hidden.view(), .token_ids = each.token_ids()});
    layer->wait();
    EXPECT_LE(compare(output.view(), each.expected()).calc_diff, 3e-3) << each.name;
  }
}

// gpt-oss as published in MXFP4: gate and up in turns, biases, clamped SwiGLU; against its definition.
TEST(Fp8, ExpertsOfMxfp4AreWithinThePublishedBoundOfTheirDefinition) {
  const testing::Definition d = testing::find_definition("gpt_oss mxfp4");
  const auto tensors = testing::make_tensors(d);
  const testing::TemporaryFolder folder;
  testing::write_checkpoint(folder.path(), d, tensors);
  const auto checkpoint = Checkpoint::open(folder.path());
  const auto weights = checkpoint->load_layer(d.layer, 1, 0, {}, WeightForms::Native);
  ASSERT_EQ(weights.experts.w1.dtype, DType::F8E4m3);
  const ConstTensor hidden = testing::definition_input().view();
  const auto expected = testing::expected_output(d, tensors);
  for (const char* strategy : {"contiguous", "masked", "hybrid"}) {
    Buffer<Bf16> output(hidden.shape);
    const auto layer = MoeLayer::create(checkpoint->config(d.layer), weights, options_of(strategy));
    layer->forward({.output = output.view(), .hidden = hidden});
    layer->wait();
    const auto difference = compare(output.view(), expected.view());
    EXPECT_GT(difference.rel_error, 4e-3) << strategy;  // rows were quantised
    EXPECT_LE(difference.calc_diff, 3e-3) << strategy;
  }
}

// ---- refusals

void expect_refused(const LayerWeights& w, const std::string& says) {
  try {
    validate(w, layer_config(), 1);
    ADD_FAILURE() << "nothing was refused, need " << says;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
  }
}

TEST(Fp8, WeightsWhoseScalesDoNotFitAreRefused) {
  const MoeConfig c = layer_config();
  const LayerWeights bf16 = random_weights(c, 1, 0, 3);
  const LayerWeights good = testing::f8_weights(bf16, {8, 128}, {128, 128});
  validate(good, c, 1);
  LayerWeights w = good;
  w.experts.w1_scales = {};
  expect_refused(w, "w1 scales is missing");
  w = good;
  w.experts.w2_scales.block.cols = 64;
  expect_refused(w, "block.cols=64");
  w = good;
  w.experts.w1_scales.block.rows = 0;
  expect_refused(w, "block.rows=0");
  w = good;
  w.experts.w1_scales.block.rows = 16;
  expect_refused(w, "need f32");
  w = good;
  w.experts.w2 = bf16.experts.w2;
  expect_refused(w, "w2 is bf16");
  w = good;
  w.experts.transposed = true;
  expect_refused(w, "transposed");
  w = good;
  w.experts.order = GateUpOrder::Interleaved;
  expect_refused(w, "Interleaved");
  w = bf16;
  w.experts.w1_scales = good.experts.w1_scales;
  expect_refused(w, "has scales");
}

}  // namespace
}  // namespace switchyard
