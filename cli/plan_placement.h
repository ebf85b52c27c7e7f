// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/plan_placement.h -- switchyard plan --placement: which rank holds which experts.
#pragma once

#include <cstdint>
#include <string>

namespace switchyard::cli {

inline constexpr int64_t kMostSlots = 1 << 20;  // 256 on each of 4096 ranks

struct PlacementArguments {
  std::string loads;    // a file, or "-"
  std::string current;  // a plan that runs; empty: none
  int64_t slots = 0;    // 0: as few as hold the experts
  int64_t groups = 1;
  int ranks = 1, nodes = 1;
  bool json = false;
};

int print_placement(const PlacementArguments& arguments);

}  // namespace switchyard::cli
