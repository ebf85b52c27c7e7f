// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/router_logits_test.cc -- the logits of a router, against float64; and where its inner
// dimension is split.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/ops.h"
#include "plan/buffers.h"
#include "testing/buffer.h"
#include "testing/cpu_ops.h"

namespace switchyard::testing {
namespace {

TEST(RouterLogits, AreTheProduct) {
  constexpr int64_t kTokens = 5, kRows = 7, kHidden = 136;
  const auto hidden = random_bf16({kTokens, kHidden}, 1), weights = random_bf16({kRows, kHidden}, 2);
  Buffer<float> logits({kTokens, kRows});
  run_plain(RouterLogits{logits.view(), hidden.view(), weights.view()});
  ASSERT_TRUE(logits.guards_intact());
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t n = 0; n < kRows; ++n) {
      double sum = 0, size = 0;
      for (int64_t h = 0; h < kHidden; ++h) {
        const double product =
            static_cast<double>(static_cast<float>(hidden[t * kHidden + h])) *
            static_cast<double>(static_cast<float>(weights[n * kHidden + h]));
        sum += product, size += std::abs(product);
      }
      EXPECT_NEAR(static_cast<double>(logits[t * kRows + n]), sum, 1e-6 * size);
    }
  EXPECT_THROW(run_plain(RouterLogits{logits.view(), hidden.view(), weights.view(), 2}), Error);
}

TEST(RouterLogits, AreSplitWhereTokensAreFew) {
  EXPECT_EQ(router_splits(1, 128, 2048), 8);
  EXPECT_EQ(router_splits(1984, 128, 2048), 8);
  EXPECT_EQ(router_splits(1985, 128, 2048), 1);
  EXPECT_EQ(router_splits(1, 256, 7168), 14);
  EXPECT_EQ(router_splits(1, 128, 256), 1);
  EXPECT_EQ(router_splits(1 << 20, 1, 8192), 1);
}

// A buffer for many tokens serves every call of fewer.
TEST(RouterLogits, OfFewTokensFitTheBufferOfMany) {
  for (const bool f32 : {false, true})
    for (const int64_t experts : {1, 60, 128, 384}) {
      MoeConfig c;
      c.hidden = 7168, c.num_experts = experts, c.router_f32 = f32;
      const int64_t rows = router_parts(c) * c.router_rows();
      for (const int64_t most : {1, 63, 64, 65, 500, 5000, 70000}) {
        Arena arena({});
        const int64_t room = GateBuffers::take(arena, c, most).logits.count();
        for (int64_t tokens = 0; tokens <= most; tokens += most / 100 + 1)
          ASSERT_LE(tokens * router_splits(tokens, rows, c.hidden) * rows, room)
              << tokens << " of " << most << " tokens, " << experts << " experts";
      }
    }
}

}  // namespace
}  // namespace switchyard::testing
