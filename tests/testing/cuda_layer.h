// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/cuda_layer.h -- a small layer on the GPU with the tensors of a forward.
#pragma once

#include <string>

#include "switchyard/measure.h"
#include "testing/cuda_buffer.h"
#include "testing/routing.h"

// At the head of a test that runs a layer: the grouped GEMM is Hopper's own.
#define SWITCHYARD_SKIP_WITHOUT_HOPPER()                                                \
  SWITCHYARD_SKIP_WITHOUT_GPU();                                                        \
  if (::switchyard::describe_device(::switchyard::DeviceKind::Cuda).compute_major != 9) \
  GTEST_SKIP() << "no Hopper: "                                                         \
               << ::switchyard::describe_device(::switchyard::DeviceKind::Cuda).name

namespace switchyard::testing {

inline std::shared_ptr<Backend> shared_cuda_backend() {
  return {std::shared_ptr<void>(), &cuda_backend()};  // lives as long as the program
}

inline MoeConfig small_config() {
  MoeConfig c;
  c.hidden = 256;
  c.intermediate = 128;
  c.num_experts = 16;
  c.top_k = 4;
  c.gate.renormalize = true;
  c.shared = {64, true};
  return c;
}

inline std::unique_ptr<MoeLayer> cuda_layer(const MoeConfig& config, const std::string& strategy,
                                            int64_t max_tokens, int64_t masked_max_tokens) {
  LayerOptions options;
  options.max_tokens = max_tokens;
  options.strategy = strategy;
  options.device = DeviceKind::Cuda;
  options.masked_max_tokens = masked_max_tokens;
  options.backend = shared_cuda_backend();
  return MoeLayer::create(config, random_device_weights(config, cuda_backend(), 3), options);
}

// Tensors of one forward of `num_tokens` tokens; their addresses stay, so a graph may hold them.
struct CudaCall {
  CudaCall(const MoeConfig& c, int64_t num_tokens)
      : config(c),
        tokens(num_tokens),
        hidden(random_bf16({num_tokens, c.hidden}, 1)),
        ids(Shape{num_tokens, c.top_k}),
        weights(Shape{num_tokens, c.top_k}),
        output(Shape{num_tokens, c.hidden}) {
    route(Skew::Balanced, 1);
  }

  void route(Skew skew, uint64_t seed) {
    const auto new_ids = random_ids(tokens, config.num_experts, config.top_k, skew, seed);
    const auto new_weights = random_f32({tokens, config.top_k}, seed, 0.0f, 1.0f);
    copy_to_device(cuda_backend(), ids.view(), new_ids.data());
    copy_to_device(cuda_backend(), weights.view(), new_weights.data());
  }
  void fill_hidden(uint64_t seed) {
    const auto rows = random_bf16({tokens, config.hidden}, seed);
    copy_to_device(cuda_backend(), hidden.view(), rows.data());
  }

  ForwardArgs args(CUstream_st* stream, Tensor to) {
    return {.output = to, .hidden = hidden.view(), .max_tokens = tokens, .stream = stream};
  }
  ForwardArgs args_given_routing(CUstream_st* stream, Tensor to) {
    ForwardArgs a = args(stream, to);
    a.ids = ids.view(), a.weights = weights.view();
    return a;
  }

  MoeConfig config;
  int64_t tokens;
  CudaBuffer<Bf16> hidden;
  CudaBuffer<int32_t> ids;
  CudaBuffer<float> weights;
  CudaBuffer<Bf16> output;
};

}  // namespace switchyard::testing
