// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// examples/embed/model.cc -- the MoE layers of a model inside an engine: one backend, one workspace,
// a decode loop. An error belongs to the layer that caused it.
#include <cstdio>
#include <vector>

#include "switchyard/layer.h"

int main() {
  using namespace switchyard;
  const MoeConfig config{.hidden = 256, .intermediate = 128, .num_experts = 16, .top_k = 4};
  constexpr uint64_t kLayers = 48;
  constexpr int64_t kTokens = 8, kSteps = 4;

  // [model]
  LayerOptions options;
  options.max_tokens = 512;
  options.backend = make_cpu_backend();  // or make_cuda_backend(), with options.device
  options.shared_workspace = std::make_shared<SharedWorkspace>(options.backend);
  std::vector<std::unique_ptr<MoeLayer>> layers;
  for (uint64_t i = 0; i < kLayers; ++i)
    layers.push_back(MoeLayer::create(config, random_weights(config, 1, 0, i), options));

  std::vector<Bf16> hidden(kTokens * config.hidden, Bf16(0.5f)), output(hidden.size());
  for (int64_t step = 0; step < kSteps; ++step)
    for (const auto& layer : layers) {
      layer->forward({.output = Tensor(output.data(), {kTokens, config.hidden}),
                      .hidden = ConstTensor(hidden.data(), {kTokens, config.hidden})});
      hidden.swap(output);  // attention would come here
    }
  for (const auto& layer : layers) layer->wait();
  // [model]

  size_t state = 0;
  for (const auto& layer : layers) state += layer->state_bytes();
  std::printf("%zu layers: one workspace of %.1f MiB, %zu bytes of state\n", layers.size(),
              static_cast<double>(options.shared_workspace->bytes()) / (1 << 20), state);
}
