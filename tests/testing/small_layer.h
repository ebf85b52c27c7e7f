// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/small_layer.h -- a small layer of one rank, and a call of it.
#pragma once

#include "switchyard/layer.h"
#include "testing/buffer.h"
#include "testing/routing.h"

namespace switchyard::testing {

inline MoeConfig small_layer() {
  MoeConfig c;
  c.hidden = 128;
  c.intermediate = 64;
  c.num_experts = 16;
  c.top_k = 4;
  c.shared = {.intermediate = 32, .sigmoid_gated = true};
  return c;
}

inline LayerOptions small_options(const std::string& strategy, int64_t max_tokens = 64) {
  LayerOptions o;
  o.max_tokens = max_tokens;
  o.strategy = strategy;
  o.num_threads = 2;
  return o;
}

struct SmallCall {
  explicit SmallCall(int64_t num_tokens, uint64_t seed = 1)
      : hidden(random_bf16({num_tokens, 128}, seed)),
        ids(random_ids(num_tokens, 16, 4, Skew::Balanced, seed)),
        weights(random_f32({num_tokens, 4}, seed, 0.1f, 1.0f)),
        output({num_tokens, 128}) {}
  ForwardArgs with_ids() {
    return {.output = output.view(),
            .hidden = std::as_const(hidden).view(),
            .ids = std::as_const(ids).view(),
            .weights = std::as_const(weights).view()};
  }
  ForwardArgs with_gate() {
    return {.output = output.view(), .hidden = std::as_const(hidden).view()};
  }
  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> weights;
  Buffer<Bf16> output;
};

}  // namespace switchyard::testing
