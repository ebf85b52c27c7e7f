// src/weights/weight_block.h -- one rank's weights of one layer in one block of memory.
#pragma once

#include "base/arena.h"
#include "switchyard/weights.h"

namespace switchyard {

// Mutable views of what LayerWeights shows as constant ones. Absent where the config has no such
// part.
struct WeightBlock {
  Tensor w1, w2, b1, b2;
  Tensor router, router_bias, correction_bias, expert_scale, token_experts;
  Tensor shared_w1, shared_w2, shared_gate;
  Tensor input_norm, down, output_norm, up;  // RoutedPathWeights
  std::shared_ptr<void> memory;

  // Sizes only, over an empty workspace.
  static WeightBlock take(Arena& arena, const MoeConfig& config, int num_ranks);
  // Allocates. Throws Error(Unsupported) with the bytes when the machine has not that much memory
  // free.
  static WeightBlock allocate(const MoeConfig& config, int num_ranks);

  LayerWeights view() const;
};

}  // namespace switchyard
