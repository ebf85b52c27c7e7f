// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// examples/embed/linear_attention.cc -- decode steps of the gated delta rule over paged states.
#include "switchyard/linear_attention.h"

#include <cstdio>
#include <vector>

using namespace switchyard;

int main() {
  const int64_t batch = 2, heads = 4, width = 32, slots = 3, num_blocks = 7;
  // [step]
  const auto attention = LinearAttention::create(make_cpu_backend(), batch);

  // Sequence 0 has 5 tokens with the one of this step, sequence 1 begins. Blocks hold 4 tokens.
  const std::vector<int32_t> lengths = {5, 1}, block_map = {3, 1, 4, 5, 2, 6};
  std::vector<float> states(num_blocks * heads * width * width);
  std::vector<Bf16> q(batch * heads * width, Bf16(0.5f)), k = q, v = q, out(q.size());
  const std::vector<float> g(batch * heads, -0.1f), beta(batch * heads, 0.5f);

  DeltaRuleDecode step;
  step.q = ConstTensor(q.data(), {batch, 1, heads, width});
  step.k = ConstTensor(k.data(), {batch, 1, heads, width});
  step.v = ConstTensor(v.data(), {batch, 1, heads, width});
  step.g = ConstTensor(g.data(), {batch, 1, heads});
  step.beta = ConstTensor(beta.data(), {batch, 1, heads});
  step.state = Tensor(states.data(), {num_blocks, heads, width, width});
  step.output = Tensor(out.data(), {batch, 1, heads, width});
  step.l2_normalize = true;
  step.map = {.sequence_lengths = ConstTensor(lengths.data(), {batch}),
              .block_map = ConstTensor(block_map.data(), {batch, slots}),
              .num_slots = slots,
              .row_stride = slots,  // more, where block_map is a view of a wider table
              .block_tokens = 4};
  attention->delta_rule_decode(step);  // reads block 3, writes blocks 1 and 5
  attention->wait();                   // throws BadState if a sequence crossed a bound
  // [step]
  std::printf("sequence 1 after its first token: %.4f\n",
              static_cast<double>(static_cast<float>(out[heads * width])));
  return 0;
}
