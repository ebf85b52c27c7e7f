// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/measure_strategies.h -- the candidates of `switchyard explain`, each timed.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "bench.h"
#include "switchyard/strategy.h"

namespace switchyard::cli {

struct MeasuredStrategy {
  double us = 0;  // median, of the slowest rank; 0: not timed
  double min_us = 0, max_us = 0;
  double rel_error = 0;  // of a few tokens against float64, the worst rank's
  int num_kernels = 0;   // CUDA; 0: not counted
  int num_operations = 0;
  std::string problem;  // why it is not timed
  bool is_wrong = false;

  bool is_timed() const { return us > 0; }
};

// Of each candidate, in their order: what is predicted, the experts with dispatch and combine, takes
// at arguments.tokens.front() tokens of each rank. All get the same rows, routing and weights. A
// candidate whose conditions fail, or that this machine cannot hold, says why; a wrong result is not
// timed. Throws Unsupported where the weights alone exceed the memory.
std::vector<MeasuredStrategy> measure_strategies(const BenchArguments& arguments,
                                                 std::span<const Strategy> candidates);

}  // namespace switchyard::cli
