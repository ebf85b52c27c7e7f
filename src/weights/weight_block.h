// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/weight_block.h -- one rank's weights of one layer in one block of memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/arena.h"
#include "switchyard/weights.h"

namespace switchyard {

// Mutable views of what LayerWeights shows as constant ones. Absent where the config has no such
// part.
struct WeightBlock {
  Tensor w1, w2, b1, b2;
  ExpertFormat format;
  Tensor w1_scales, w2_scales;  // of f8_e4m3
  Tensor router, router_bias, correction_bias, expert_scale, token_experts;
  Tensor shared_w1, shared_w2, shared_gate;
  Tensor input_norm, down, output_norm, up;  // RoutedPathWeights
  std::shared_ptr<void> memory;

  // Sizes only, over an empty workspace.
  static WeightBlock take(Arena& arena, const MoeConfig& config, int num_ranks,
                          const ExpertFormat& format = {});
  // Allocates. Throws Error(Unsupported) with the bytes when the machine has not that much memory
  // free.
  static WeightBlock allocate(const MoeConfig& config, int num_ranks,
                              const ExpertFormat& format = {});

  LayerWeights view() const;
};

// Values of base/random.h within `range` of `middle`, or, for i32 (a table of experts), rows of K
// different ids.
struct RandomValues {
  int number = 0;
  float range = 0, middle = 0;
};

// What a config says of one tensor of a layer.
struct WeightPart {
  enum class Group { Experts, Router, Shared, Path };

  Group group;
  const char* name;  // in messages
  Tensor WeightBlock::*tensor;
  std::function<ConstTensor(const LayerWeights&)> view;
  bool wanted;
  DType dtype;
  Shape shape;
  RandomValues random;

  // Whether there is a sequence of random values for each slice of the outermost dimension, counted
  // from the rank's first expert; else there is one, of "expert" -1.
  bool by_expert() const { return group == Group::Experts; }
};

// In the order of WeightBlock, the absent ones too. Throws Error(ShapeMismatch or Unsupported) for
// a config or a number of ranks that no layer has.
std::vector<WeightPart> weight_parts(const MoeConfig& config, int num_ranks,
                                     const ExpertFormat& format = {});

// ---- available_memory.cc: how much memory this process could still take

struct AvailableMemory {
  uint64_t bytes = UINT64_MAX;  // unknown is "enough"
  const char* of = "";          // which limit it is: "the machine", ...
};

// The least of what the machine, each control group above this process (v1 and v2) and the limits
// of the process leave. Files that a group has cached but does not use count as free. `root` holds
// proc and sys.
AvailableMemory available_memory(const std::string& root = "/");

}  // namespace switchyard
