// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/oracle_test.cc
#include "switchyard/oracle.h"

#include <gtest/gtest.h>

#include <cmath>

#include "switchyard/error.h"
#include "testing/checkpoints.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;

// Two float64 evaluations of one definition: what differs is the order of summation, nothing else.
TEST(Oracle, AgreesWithTheCheckpointsOwnFloat64) {
  for (const auto& c : testing::oracle_cases()) {
    const auto config = c.checkpoint->config(c.layer);
    const auto weights = c.checkpoint->load_layer(c.layer, 1, 0);
    const auto copy = c.input();
    const ConstTensor input = copy.view().rows(0, std::min<int64_t>(copy.view().dim(0), 48));
    Buffer<double> out(input.shape);
    const ConstTensor ids = c.token_ids();
    oracle_forward(out.view(), config, weights, input, {}, {},
                   ids.present() ? ids.rows(0, input.dim(0)) : ids);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < out.count(); ++i) {
      const double expected = c.expected().as<double>()[i];
      error += (out[i] - expected) * (out[i] - expected);
      norm += expected * expected;
    }
    EXPECT_LT(std::sqrt(error / norm), 1e-6) << c.name;
    EXPECT_TRUE(out.guards_intact());
  }
}

TEST(Oracle, KnowsNoOrderOfHalvesWhereThereIsNoGate) {
  MoeConfig config;
  config.hidden = 64, config.intermediate = 32, config.num_experts = 4, config.top_k = 2;
  config.activation.kind = ActivationKind::Relu2;
  auto weights = random_weights(config, 1, 0, 3);
  const auto x = testing::random_bf16({5, 64}, 4);
  Buffer<double> one({5, 64}), other({5, 64});
  oracle_forward(one.view(), config, weights, x.view());
  weights.experts.order = GateUpOrder::UpGate;
  oracle_forward(other.view(), config, weights, x.view());
  EXPECT_TRUE(testing::same_bits(one, other));
}

TEST(Compare, SeesOneWrongRowANanAndNothingElse) {
  const auto x = testing::random_bf16({5, 16}, 1);
  Buffer<double> same({5, 16});
  for (int64_t i = 0; i < same.count(); ++i) same[i] = static_cast<float>(x[i]);
  EXPECT_EQ(compare(x.view(), same.view()).rel_error, 0);
  EXPECT_EQ(compare(x.view(), same.view()).max_row_error, 0);
  EXPECT_NEAR(compare(x.view(), same.view()).calc_diff, 0, 1e-15);

  auto wrong = same;
  for (int64_t h = 0; h < 16; ++h) wrong[3 * 16 + h] *= 2;
  const auto d = compare(x.view(), wrong.view());
  EXPECT_EQ(d.worst_row, 3);
  EXPECT_NEAR(d.max_row_error, 0.5, 1e-12);

  auto broken = x;
  broken[7] = Bf16(NAN);
  EXPECT_TRUE(std::isnan(compare(broken.view(), same.view()).rel_error));
  EXPECT_TRUE(std::isnan(compare(broken.view(), same.view()).max_row_error));
}

TEST(Compare, RefusesDifferentShapes) {
  const auto x = testing::random_bf16({5, 16}, 1);
  Buffer<double> y({4, 16});
  EXPECT_THROW(compare(x.view(), y.view()), Error);
}

}  // namespace
}  // namespace switchyard
