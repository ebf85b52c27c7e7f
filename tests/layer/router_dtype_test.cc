// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/router_dtype_test.cc -- a router stored in fp32 stays fp32: tokens go where the
// float64 definition sends them, also where a router rounded to bf16 would send them elsewhere; and
// of experts that score the same, the lowest ids are chosen.
#include <gtest/gtest.h>

#include <algorithm>

#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/family_definitions.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::Definition;
using testing::kExperts;
using testing::kHidden;
using testing::kTokens;
using testing::Routed;
using testing::Stored;
using testing::Tensors;

constexpr auto kTopK = static_cast<int64_t>(testing::kTopK);

struct Case {
  const char* family;
  std::string router;  // its tensor
  bool f32 = true;

  friend void PrintTo(const Case& c, std::ostream* out) {
    *out << c.family << (c.f32 ? ", f32" : ", bf16");
  }
};

// The family's definition with a router of this dtype, whatever it is published in.
Definition definition_of(const Case& c) {
  Definition d = testing::find_definition(c.family);
  if (c.f32)
    testing::tensor_f32(d, c.router, {kExperts, kHidden}, 0.2);
  else
    testing::tensor_bf16(d, c.router, {kExperts, kHidden}, 0.2);
  return d;
}

Routed choice(const Definition& d, const Tensors& tensors, int64_t t) {
  return d.route(tensors, d.logits(tensors, testing::definition_row(t)), 0);
}

struct Choices {
  Buffer<int32_t> ids{{kTokens, kTopK}};
  Buffer<double> weights{{kTokens, kTopK}};
};

Choices of_definition(const Definition& d, const Tensors& tensors) {
  Choices c;
  for (int64_t t = 0; t < kTokens; ++t) {
    const Routed r = choice(d, tensors, t);
    std::copy(r.experts.begin(), r.experts.end(), c.ids.data() + t * kTopK);
    std::copy(r.weights.begin(), r.weights.end(), c.weights.data() + t * kTopK);
  }
  return c;
}

Choices of_oracle(const MoeConfig& config, const LayerWeights& weights) {
  Choices c;
  oracle_gate(c.ids.view(), c.weights.view(), config, weights.router,
              testing::definition_input().view());
  return c;
}

Choices of_layer(MoeLayer& layer) {
  Choices c;
  Buffer<float> weights({kTokens, kTopK});
  Gate& gate = layer.gate();
  std::vector<std::byte> memory(gate.workspace_bytes(kTokens) + Workspace::kAlignment);
  void* at = memory.data();
  size_t space = memory.size();
  std::align(Workspace::kAlignment, gate.workspace_bytes(kTokens), at, space);
  gate.choose(c.ids.view(), weights.view(), testing::definition_input().view(), {at, space},
              nullptr);
  std::copy_n(weights.data(), weights.count(), c.weights.data());
  return c;
}

void expect_same(const Choices& got, const Choices& wanted, const char* who) {
  for (int64_t i = 0; i < wanted.ids.count(); ++i) {
    EXPECT_EQ(got.ids[i], wanted.ids[i]) << who << ", token " << i / kTopK;
    EXPECT_NEAR(got.weights[i], wanted.weights[i], 1e-5) << who << ", token " << i / kTopK;
  }
}

// Oracle, gate and layer against the definition.
void expect_as_defined(const Case& c, const Definition& d, const Tensors& tensors) {
  const testing::TemporaryFolder folder;
  testing::write_checkpoint(folder.path(), d, tensors);
  const auto checkpoint = Checkpoint::open(folder.path());
  const MoeConfig config = checkpoint->config(d.layer);
  EXPECT_EQ(config.router_f32, c.f32);
  const LayerWeights weights = checkpoint->load_layer(d.layer, 1, 0);
  LayerOptions options;
  options.max_tokens = kTokens;
  options.num_threads = 1;
  const auto layer = MoeLayer::create(config, weights, options);

  const Choices wanted = of_definition(d, tensors);
  expect_same(of_oracle(config, weights), wanted, "oracle");
  expect_same(of_layer(*layer), wanted, "layer");
  const auto expected = testing::expected_output(d, tensors);
  Buffer<Bf16> output({kTokens, kHidden});
  layer->forward({.output = output.view(), .hidden = testing::definition_input().view()});
  layer->wait();
  const auto difference = compare(std::as_const(output).view(), expected.view());
  EXPECT_LE(difference.rel_error, 4e-3);
  EXPECT_LE(difference.max_row_error, 2e-2) << "row " << difference.worst_row;
}

const std::string kMlp = "model.layers.1.mlp", kSparse = "model.layers.1.block_sparse_moe";

class RouterDType : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(F32, RouterDType,
                         ::testing::Values(Case{"mixtral", kSparse + ".gate.weight"},
                                           Case{"deepseek_v3", kMlp + ".gate.weight"},
                                           Case{"granitemoe", kSparse + ".router.layer.weight"},
                                           Case{"minimax_m2", kSparse + ".gate.weight"},
                                           Case{"hy_v3", kMlp + ".router.gate.weight"}));
INSTANTIATE_TEST_SUITE_P(Bf16, RouterDType,
                         ::testing::Values(Case{"mixtral", kSparse + ".gate.weight", false},
                                           Case{"minimax_m2", kSparse + ".gate.weight", false}));

TEST_P(RouterDType, TokensGoWhereFloat64SendsThem) {
  const Definition d = definition_of(GetParam());
  const Tensors tensors = testing::make_tensors(d);
  // What rounding would do: another expert for some token, or this proves nothing.
  Tensors rounded = tensors;
  for (double& v : rounded[GetParam().router].values)
    v = static_cast<float>(Bf16(static_cast<float>(v)));
  int64_t elsewhere = 0;
  for (int64_t t = 0; t < kTokens; ++t)
    elsewhere += choice(d, rounded, t).experts != choice(d, tensors, t).experts;
  EXPECT_EQ(elsewhere > 0, GetParam().f32);
  expect_as_defined(GetParam(), d, tensors);
}

// Row e of a tensor [E, ...] becomes a copy of row e % 6, so that three experts score the same.
void repeat_rows(Stored& t) {
  const size_t width = static_cast<size_t>(t.shape.count() / kExperts);
  const size_t bytes = t.bytes.size() / static_cast<size_t>(kExperts);
  for (size_t e = 6; e < static_cast<size_t>(kExperts); ++e) {
    std::copy_n(t.values.begin() + static_cast<int64_t>(e % 6 * width), width,
                t.values.begin() + static_cast<int64_t>(e * width));
    std::copy_n(t.bytes.begin() + static_cast<int64_t>(e % 6 * bytes), bytes,
                t.bytes.begin() + static_cast<int64_t>(e * bytes));
  }
}

TEST_P(RouterDType, TiesGoToTheLowestId) {
  const Definition d = definition_of(GetParam());
  Tensors tensors = testing::make_tensors(d);
  for (auto& [name, tensor] : tensors)
    if (name == GetParam().router || name.ends_with("bias")) repeat_rows(tensor);
  int64_t ties = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    const auto weights = choice(d, tensors, t).weights;
    ties += std::adjacent_find(weights.begin(), weights.end()) != weights.end();
  }
  EXPECT_GT(ties, kTokens / 2);
  expect_as_defined(GetParam(), d, tensors);
}

}  // namespace
}  // namespace switchyard
