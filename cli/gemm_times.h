// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/gemm_times.h -- what `switchyard bench --tune` measured of grouped GEMMs, and what it says of
// them. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "switchyard/strategy.h"

namespace switchyard::cli {

// A table has what takes so much less than the rule's, and less in every round: other gains are within
// what times differ by.
inline constexpr double kLeastGain = 1.015;
// Times as long as the best at a first look: not timed any further.
inline constexpr double kFarBehind = 1.5;

struct ConfigTime {
  std::string config;
  double first_us = 0;              // of a first look
  std::vector<double> rounds_us{};  // medians; none where the first look was enough
  std::string problem{};            // why it is not timed

  double us() const;  // median of the rounds; infinite where there are none
};

// A grouped GEMM at a number of rows.
struct GemmTimes {
  int64_t tokens = 0;
  int gemm = 1;  // or 2
  GemmCandidates shape;
  std::vector<ConfigTime> configs;  // all of shape.configs

  GemmTimes(int64_t num_tokens, int number, GemmCandidates candidates);

  ConfigTime* find(const std::string& config);
  const ConfigTime* find(const std::string& config) const;
  double us_of(const std::string& config) const;  // infinite where it has no time
  // Its name; the rule's where nothing was timed.
  const std::string& best() const;
  // The rule's time over the best's; 1 where one of them has none.
  double gain() const;
  bool belongs_in_table() const;
  // Whether one is worth more than a first look: it was not far behind, or it is what others are
  // compared with.
  bool is_contender(const ConfigTime& time) const;
};

// A line for each GEMM that belongs in a table.
std::string table_of(const std::vector<GemmTimes>& all, const DeviceDescription& device,
                     DType experts);

nlohmann::json json_of(const GemmTimes& times);

}  // namespace switchyard::cli
