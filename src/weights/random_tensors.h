// src/weights/random_tensors.h -- which random values the tensors of a layer hold.
#pragma once

#include <cmath>
#include <vector>

#include "weights/weight_block.h"

namespace switchyard {

// Values of base/random.h, or, for i32 (a table of experts), rows of K different ids. By expert: a
// sequence for each slice of the outermost dimension, counted from the rank's first expert; else
// one sequence, of "expert" -1.
struct RandomTensor {
  Tensor tensor;
  bool by_expert;
  int number;
  float range;
  float middle = 0;  // values are within `range` of it
};

// sqrt(3 / fan_in): a uniform value of that range has variance 1 / fan_in, which keeps the size of
// what is multiplied.
inline float range_for(int64_t fan_in) {
  return std::sqrt(3.0f / static_cast<float>(fan_in));
}

inline std::vector<RandomTensor> random_tensors(const WeightBlock& b, const MoeConfig& c) {
  std::vector<RandomTensor> all = {{b.w1, true, 1, range_for(c.routed_hidden())},
                                   {b.w2, true, 2, range_for(c.intermediate)},
                                   {b.router, false, 1, range_for(c.hidden)}};
  if (b.b1.present()) all.push_back({b.b1, true, 3, 0.5f});
  if (b.b2.present()) all.push_back({b.b2, true, 4, 0.5f});
  if (b.router_bias.present()) all.push_back({b.router_bias, false, 2, 0.5f});
  if (b.correction_bias.present()) all.push_back({b.correction_bias, false, 3, 0.1f});
  if (b.expert_scale.present()) all.push_back({b.expert_scale, false, 7, 0.5f, 1.0f});
  if (b.token_experts.present()) all.push_back({b.token_experts, false, 8, 0});
  if (b.input_norm.present()) all.push_back({b.input_norm, false, 9, 0.5f, 1.0f});
  if (b.down.present()) all.push_back({b.down, false, 10, range_for(c.hidden)});
  if (b.output_norm.present()) all.push_back({b.output_norm, false, 11, 0.5f, 1.0f});
  if (b.up.present()) all.push_back({b.up, false, 12, range_for(c.path.latent)});
  if (!b.shared_w1.present()) return all;
  all.push_back({b.shared_w1, false, 4, range_for(c.hidden)});
  all.push_back({b.shared_w2, false, 5, range_for(c.shared.intermediate)});
  if (b.shared_gate.present()) all.push_back({b.shared_gate, false, 6, range_for(c.hidden)});
  return all;
}

}  // namespace switchyard
