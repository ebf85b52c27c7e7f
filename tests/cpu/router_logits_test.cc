// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/router_logits_test.cc -- the logits of a router, against float64.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/ops.h"
#include "testing/buffer.h"
#include "testing/cpu_ops.h"

namespace switchyard::testing {
namespace {

TEST(RouterLogits, AreTheProduct) {
  constexpr int64_t kTokens = 5, kRows = 7, kHidden = 136;
  const auto hidden = random_bf16({kTokens, kHidden}, 1),
             weights = random_bf16({kRows, kHidden}, 2);
  Buffer<float> logits({kTokens, kRows});
  Buffer<int32_t> count({1});
  Buffer<int64_t> first_row({2});
  run_plain(
      RouterLogits{logits.view(), hidden.view(), weights.view(), {count.view(), first_row.view()}});
  ASSERT_TRUE(logits.guards_intact());
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t n = 0; n < kRows; ++n) {
      double sum = 0, size = 0;
      for (int64_t h = 0; h < kHidden; ++h) {
        const double product = static_cast<double>(static_cast<float>(hidden[t * kHidden + h])) *
                               static_cast<double>(static_cast<float>(weights[n * kHidden + h]));
        sum += product, size += std::abs(product);
      }
      EXPECT_NEAR(static_cast<double>(logits[t * kRows + n]), sum, 1e-6 * size);
    }
}

}  // namespace
}  // namespace switchyard::testing
