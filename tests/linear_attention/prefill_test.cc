// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/linear_attention/prefill_test.cc -- the states that a prefill convolution leaves, on the
// CPU.
#include <gtest/gtest.h>

#include "testing/prefill_states.h"

namespace switchyard::testing {
namespace {

TEST(ConvPrefillCpu, LeavesTheStateAfterEveryBlock) {
  const auto attention = LinearAttention::create(make_cpu_backend(2), 16);
  for (const PrefillProblem& p : prefill_problems()) {
    expect_prefill<Bf16, Bf16, Buffer>(*attention, p);
    expect_prefill<float, Bf16, Buffer>(*attention, p);
    expect_prefill<float, float, Buffer>(*attention, p);
    expect_prefill<Bf16, float, Buffer>(*attention, p);
  }
}

// A prompt in one prefill or in two, then tokens one by one, is one convolution over all of it.
TEST(ConvPrefillCpu, DecodeGoesOnWhereItEnded) {
  const auto attention = LinearAttention::create(make_cpu_backend(1), 1);
  constexpr int64_t kTokens = 40, kPrompt = 21, kDim = 8, kWidth = 4, kBlock = 8;
  const auto x = random_bf16({kTokens, kDim}, 1);
  const auto weight = random_f32({kDim, kWidth}, 2);
  for (const int64_t first_part : {0, 1, 2, 8, 13}) {
    Buffer<Bf16> pool({7, kDim, kWidth - 1});
    Buffer<int32_t> table({1, 6}), starts({2}), prefix({1}), length({1});
    for (int32_t s = 0; s < 6; ++s) table[s] = 6 - s;
    const StateMap map{.sequence_lengths = length.view(),
                       .block_map = table.view(),
                       .num_slots = 6,
                       .row_stride = 6,
                       .block_tokens = kBlock};
    int64_t done = 0;
    for (const int64_t part : {first_part, kPrompt - first_part}) {
      prefix[0] = starts[0] = static_cast<int32_t>(done);
      starts[1] = static_cast<int32_t>(done + part);
      ConvPrefillStates step;
      step.state = pool.view(), step.x = x.view(), step.starts = starts.view();
      step.prefix_lengths = prefix.view(), step.map = map;
      attention->conv_prefill_states(step);
      done += part;
    }
    for (int64_t t = kPrompt; t < kTokens; ++t) {
      length[0] = static_cast<int32_t>(t + 1);
      Buffer<Bf16> out({1, kDim});
      ConvDecode step;
      step.output = out.view(), step.x = x.view().rows(t, 1), step.weight = weight.view();
      step.state = pool.view(), step.map = map;
      attention->conv_decode(step);
      for (int64_t c = 0; c < kDim; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < kWidth; ++j)
          sum += double{weight[c * kWidth + j]} * number(x[(t - kWidth + 1 + j) * kDim + c]);
        EXPECT_NEAR(number(out[c]), sum, 0x1p-8 * std::fabs(sum) + 1e-5)
            << "token " << t << ", first part " << first_part;
      }
    }
    attention->wait();
  }
}

}  // namespace
}  // namespace switchyard::testing
