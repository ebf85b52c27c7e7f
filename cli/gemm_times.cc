// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/gemm_times.cc
#include "gemm_times.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace switchyard::cli {

double ConfigTime::us() const {
  if (rounds_us.empty()) return std::numeric_limits<double>::infinity();
  std::vector<double> sorted = rounds_us;
  std::ranges::sort(sorted);
  return sorted[sorted.size() / 2];
}

GemmTimes::GemmTimes(int64_t num_tokens, int number, GemmCandidates candidates)
    : tokens(num_tokens), gemm(number), shape(std::move(candidates)) {
  for (const auto& name : shape.configs) configs.push_back({name});
}

ConfigTime* GemmTimes::find(const std::string& config) {
  const auto at = std::ranges::find(configs, config, &ConfigTime::config);
  return at != configs.end() ? &*at : nullptr;
}

const ConfigTime* GemmTimes::find(const std::string& config) const {
  return const_cast<GemmTimes*>(this)->find(config);
}

double GemmTimes::us_of(const std::string& config) const {
  const ConfigTime* time = find(config);
  return time != nullptr ? time->us() : std::numeric_limits<double>::infinity();
}

const std::string& GemmTimes::best() const {
  const auto at = std::ranges::min_element(configs, {}, &ConfigTime::us);
  return at != configs.end() && std::isfinite(at->us()) ? at->config : shape.by_rule;
}

double GemmTimes::gain() const {
  const double rule = us_of(shape.by_rule), least = us_of(best());
  return std::isfinite(rule) && least > 0 ? rule / least : 1;
}

bool GemmTimes::belongs_in_table() const {
  if (gain() < kLeastGain) return false;
  return std::ranges::equal(find(best())->rounds_us, find(shape.by_rule)->rounds_us,
                            std::ranges::less{});
}

bool GemmTimes::is_contender(const ConfigTime& time) const {
  if (time.first_us <= 0) return false;
  if (time.config == shape.by_rule || time.config == shape.chosen) return true;
  double least = std::numeric_limits<double>::infinity();
  for (const ConfigTime& other : configs)
    if (other.first_us > 0) least = std::min(least, other.first_us);
  return time.first_us <= kFarBehind * least;
}

std::string table_of(const std::vector<GemmTimes>& all, const DeviceDescription& device,
                     DType experts) {
  std::string text = fmt::format(
      "# Grouped GEMMs that take less in another configuration than in the rule's, at least {:.1f} "
      "%.\n# gpu; SMs; reads GB/s; experts in; E; N; K; gate; rows; configuration; the rule's time "
      "over its\n",
      100 * (kLeastGain - 1));
  for (const GemmTimes& t : all)
    if (t.belongs_in_table())
      text += fmt::format("{}; {}; {:.0f}; {}; {}; {}; {}; {}; {}; {}; {:.3f}\n", device.name,
                          device.num_sms, device.read_gbps, dtype_name(experts),
                          t.shape.num_experts, t.shape.n, t.shape.k,
                          t.shape.gated ? "gated" : "plain", t.shape.rows, t.best(), t.gain());
  return text;
}

nlohmann::json json_of(const GemmTimes& t) {
  nlohmann::json times = nlohmann::json::array();
  for (const ConfigTime& c : t.configs) {
    times.push_back({{"config", c.config},
                     {"us", nullptr},
                     {"first_us", c.first_us},
                     {"us_of_rounds", c.rounds_us},
                     {"problem", c.problem}});
    if (!c.rounds_us.empty()) times.back()["us"] = c.us();
  }
  return {{"tokens", t.tokens},
          {"gemm", t.gemm},
          {"experts", t.shape.num_experts},
          {"n", t.shape.n},
          {"k", t.shape.k},
          {"gated", t.shape.gated},
          {"rows", t.shape.rows},
          {"by_rule", t.shape.by_rule},
          {"chosen", t.shape.chosen},
          {"best", t.best()},
          {"gain", t.gain()},
          {"in_table", t.belongs_in_table()},
          {"times", times}};
}

}  // namespace switchyard::cli
