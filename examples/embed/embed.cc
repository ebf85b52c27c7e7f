// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// examples/embed/embed.cc -- a MoE layer inside another program: weights, layer, forward, wait.
#include <cstdio>
#include <vector>

#include "switchyard/layer.h"
#include "switchyard/oracle.h"

int main() {
  using namespace switchyard;
  // [embed]
  MoeConfig config{.hidden = 256, .intermediate = 128, .num_experts = 16, .top_k = 4};
  config.gate.renormalize = true;
  const LayerWeights weights = random_weights(config, 1, 0, 42);  // or views of your own memory

  LayerOptions options;
  options.max_tokens = 32;
  const auto layer = MoeLayer::create(config, weights, options);

  constexpr int64_t tokens = 20;
  std::vector<Bf16> hidden(tokens * 256), output(hidden.size());
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = Bf16(float(i % 17) / 16 - 0.5f);
  const ConstTensor in(hidden.data(), {tokens, config.hidden});
  const Tensor out(output.data(), {tokens, config.hidden});
  layer->forward({.output = out, .hidden = in});  // the layer's own gate chooses
  layer->wait();                                  // throws what only a device or a peer could know
  // [embed]

  std::vector<double> expected(output.size());
  oracle_forward(Tensor(expected.data(), out.shape), config, weights, in);
  const auto d = compare(out, ConstTensor(expected.data(), out.shape));
  std::printf("%s: error %.1e to float64\n", layer->strategy().name.c_str(), d.rel_error);
  return d.rel_error < 4e-3 ? 0 : 1;
}
