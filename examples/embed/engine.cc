// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// examples/embed/engine.cc -- what an engine hands over as it has it: experts stored transposed with
// gate and up in turns, ids of all the model's experts, padding by a sentinel; without a handle.
#include <cstdio>
#include <vector>

#include "switchyard/fused_experts.h"

int main() {
  using namespace switchyard;
  const MoeConfig config{.hidden = 256, .intermediate = 128, .num_experts = 4, .top_k = 2};
  constexpr int64_t kTokens = 3, kAllExperts = 8;  // of which this process holds 4
  const std::vector<Bf16> w1(4 * 256 * 256, Bf16(0.01f)), w2(4 * 128 * 256, Bf16(0.02f));

  // [engine]
  LayerOptions options;
  options.max_tokens = 32;
  options.backend = make_cpu_backend();
  options.out_of_range_ids = OutOfRangeIds::NoExpert;  // the engine pads with 8
  LayerWeights stored;
  stored.experts = {.order = GateUpOrder::Interleaved,
                    .w1 = ConstTensor(w1.data(), {4, 256, 256}),  // [E, H, 2I]
                    .w2 = ConstTensor(w2.data(), {4, 128, 256}),  // [E, I, H]
                    .transposed = true};
  const LayerWeights weights = arrange_weights(stored, config, 1, *options.backend);  // once

  const std::vector<int32_t> map{-1, 0, -1, 1, -1, 2, -1, 3};  // this process has the odd ones
  const std::vector<int32_t> ids{1, 3, 2, 5, 8, 8};
  const std::vector<float> routing(kTokens * 2, 0.5f);
  const size_t bytes = MoeLayer::workspace_bytes(config, 1, options);
  const auto scratch = allocate(*options.backend, bytes);
  std::vector<Bf16> hidden(kTokens * 256, Bf16(0.5f)), output(hidden.size());
  fused_experts(config, weights, options,
                {.output = Tensor(output.data(), {kTokens, 256}),
                 .hidden = ConstTensor(hidden.data(), {kTokens, 256}),
                 .ids = ConstTensor(ids.data(), {kTokens, 2}),
                 .weights = ConstTensor(routing.data(), {kTokens, 2}),
                 .expert_map = ConstTensor(map.data(), {kAllExperts}),
                 .workspace = {scratch.get(), bytes}});
  // [engine]

  for (size_t t = 0; t < kTokens; ++t)
    std::printf("token %zu: %g\n", t, static_cast<double>(static_cast<float>(output[t * 256])));
}
