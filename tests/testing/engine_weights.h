// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/engine_weights.h -- the experts of a layer as engines may store them: gate and up in
// turns, matrices transposed, biases in bf16; and those of one rank.
#pragma once

#include <memory>

#include "switchyard/weights.h"
#include "testing/buffer.h"

namespace switchyard::testing {

struct EngineLayout {
  bool transposed = false, interleaved = false, bf16_biases = false;
};

// `weights` in another layout, and what keeps them.
struct EngineWeights {
  EngineWeights(const LayerWeights& weights, const EngineLayout& layout) : view(weights) {
    ExpertWeights& e = view.experts;
    const int64_t n = e.w1.dim(0), rows = e.w1.dim(1), h = e.w1.dim(2), i = e.w2.dim(2);
    const auto source_row = [&](int64_t row) {  // that comes to `row` of W1
      return !layout.interleaved ? row : row % 2 == 0 ? row / 2 : rows / 2 + row / 2;
    };
    w1 = Buffer<Bf16>(layout.transposed ? Shape{n, h, rows} : Shape{n, rows, h});
    for (int64_t x = 0; x < n; ++x)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < h; ++c)
          w1[layout.transposed ? (x * h + c) * rows + r : (x * rows + r) * h + c] =
              e.w1.as<Bf16>()[(x * rows + source_row(r)) * h + c];
    w2 = Buffer<Bf16>(layout.transposed ? Shape{n, i, h} : Shape{n, h, i});
    for (int64_t x = 0; x < n; ++x)
      for (int64_t r = 0; r < h; ++r)
        for (int64_t c = 0; c < i; ++c)
          w2[layout.transposed ? (x * i + c) * h + r : (x * h + r) * i + c] =
              e.w2.as<Bf16>()[(x * h + r) * i + c];
    if (e.b1.present()) {
      take_bias(e.b1, b1, b1_bf16, layout, source_row);
      take_bias(e.b2, b2, b2_bf16, layout, [](int64_t row) { return row; });
    }
    e.w1 = std::as_const(w1).view();
    e.w2 = std::as_const(w2).view();
    e.transposed = layout.transposed;
    if (layout.interleaved) e.order = GateUpOrder::Interleaved;
  }

  LayerWeights view;
  Buffer<Bf16> w1, w2, b1_bf16, b2_bf16;
  Buffer<float> b1, b2;

 private:
  template <class F>
  void take_bias(ConstTensor& bias, Buffer<float>& wide, Buffer<Bf16>& narrow,
                 const EngineLayout& layout, const F& source_row) {
    const int64_t rows = bias.dim(1);
    wide = Buffer<float>(bias.shape);
    narrow = Buffer<Bf16>(bias.shape);
    for (int64_t at = 0; at < bias.count(); ++at) {
      wide[at] = bias.as<float>()[at / rows * rows + source_row(at % rows)];
      narrow[at] = Bf16(wide[at]);
    }
    bias = layout.bf16_biases ? std::as_const(narrow).view() : std::as_const(wide).view();
  }
};

// The `num` experts from `first` on of a layer, as a rank of an engine holds them: without a router.
inline LayerWeights held_by_rank(const LayerWeights& all, int64_t first, int64_t num) {
  LayerWeights held = all;
  held.router = {};
  held.experts.w1 = all.experts.w1.rows(first, num);
  held.experts.w2 = all.experts.w2.rows(first, num);
  return held;
}

// i32 [num_ids], the expert_map of that rank.
inline Buffer<int32_t> map_of_rank(int64_t num_ids, int64_t first, int64_t num) {
  Buffer<int32_t> map({num_ids});
  for (int64_t id = 0; id < num_ids; ++id)
    map[id] = id >= first && id < first + num ? static_cast<int32_t>(id - first) : -1;
  return map;
}

// Biases that bf16 holds exactly.
inline void round_biases(const LayerWeights& weights) {
  for (const ConstTensor& bias : {weights.experts.b1, weights.experts.b2})
    for (int64_t i = 0; i < bias.count(); ++i) {
      auto* value = const_cast<float*>(bias.as<float>()) + i;
      *value = static_cast<float>(Bf16(*value));
    }
}

inline constexpr EngineLayout kEngineLayouts[] = {
    {}, {.transposed = true}, {.interleaved = true}, {.bf16_biases = true}, {true, true, true},
};

}  // namespace switchyard::testing
