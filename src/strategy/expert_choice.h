// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/expert_choice.h -- which K experts a token takes, as chances instead of drawn
// tokens.
//
// Known is how often each expert is chosen, not which ones together. Of all distributions with
// these frequencies this is the one that assumes nothing more (the largest entropy): every expert
// is drawn by itself with its own chance, and the draws that have exactly K experts count. An even
// gate becomes the hypergeometric distribution. If the gate is limited to groups, the draws count
// whose experts are in exactly num_groups_kept of them: a kept group is one of the best and hardly
// ever stays without an expert.
//
// Everything is a sum of products of chances: exact, the same on every machine, no term negative.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/require.h"
#include "switchyard/config.h"

namespace switchyard {

class ExpertChoice {
 public:
  // shares[e] in [0, 1]: how often expert e is among the K of a token; they add up to K. Throws
  // BadRouting if no choice within the groups of the gate has these shares.
  ExpertChoice(const MoeConfig& config, std::vector<double> shares)
      : num_groups_(static_cast<size_t>(config.gate.num_groups)),
        num_kept_(static_cast<size_t>(std::min(config.gate.num_groups_kept, config.top_k))),
        top_k_(static_cast<size_t>(config.top_k)),
        shares_(std::move(shares)),
        chances_(shares_) {
    // Inside the kept groups an expert is drawn so much more often.
    const double kept = static_cast<double>(num_groups_) / static_cast<double>(num_kept_);
    for (double& chance : chances_) chance = scale_odds(chance, kept);
    fit();
  }

  double share(int64_t expert) const { return shares_[expert]; }

  // How often at least one of the experts [begin, end) is among the K.
  double any_of(int64_t begin, int64_t end) const {
    return 1 - weight_of(groups_without(begin, end)) / total_;
  }

 private:
  // Coefficient j: the weight of draws with j experts, j <= K.
  using ByCount = std::vector<double>;
  // Coefficient [m][j]: of draws with j experts, out of m groups.
  using ByGroups = std::vector<ByCount>;
  static constexpr size_t kNoGroup = SIZE_MAX;

  // One more expert that is drawn with this chance.
  static void add_expert(std::vector<double>& by_count, double chance) {
    for (size_t j = by_count.size() - 1; j > 0; --j)
      by_count[j] = (1 - chance) * by_count[j] + chance * by_count[j - 1];
    by_count[0] *= 1 - chance;
  }
  // One more expert that must not be drawn.
  static void leave_out_expert(std::vector<double>& by_count, double chance) {
    for (double& weight : by_count) weight *= 1 - chance;
  }
  // The chance whose odds are `factor` times those of `chance`.
  static double scale_odds(double chance, double factor) {
    return chance * factor / (1 - chance + chance * factor);
  }

  std::span<const double> chances_of(size_t group) const {
    const size_t size = chances_.size() / num_groups_;
    return std::span(chances_).subspan(group * size, size);
  }
  ByCount nothing_drawn() const {
    ByCount by_count(top_k_ + 1);
    by_count[0] = 1;
    return by_count;
  }
  ByCount group_without(size_t group, int64_t begin, int64_t end) const {
    ByCount by_count = nothing_drawn();
    const auto chances = chances_of(group);
    const auto first = static_cast<int64_t>(group * chances.size());
    for (size_t i = 0; i < chances.size(); ++i) {
      const int64_t expert = first + static_cast<int64_t>(i);
      if (begin <= expert && expert < end)
        leave_out_expert(by_count, chances[i]);
      else
        add_expert(by_count, chances[i]);
    }
    return by_count;
  }
  std::vector<ByCount> groups_without(int64_t begin, int64_t end) const {
    std::vector<ByCount> groups;
    for (size_t g = 0; g < num_groups_; ++g) groups.push_back(group_without(g, begin, end));
    return groups;
  }
  ByGroups joined(const std::vector<ByCount>& groups, size_t left_out) const {
    ByGroups all(num_kept_ + 1, ByCount(top_k_ + 1));
    all[0][0] = 1;
    for (size_t g = 0; g < groups.size(); ++g) {
      if (g == left_out) continue;
      for (size_t m = num_kept_ + 1; m-- > 0;) {  // downwards: all[m - 1] is still without g
        for (double& weight : all[m]) weight *= groups[g][0];
        if (m == 0) continue;
        for (size_t j = 1; j <= top_k_; ++j)
          for (size_t i = 1; i <= j; ++i) all[m][j] += all[m - 1][j - i] * groups[g][i];
      }
    }
    return all;
  }
  double weight_of(const std::vector<ByCount>& groups) const {
    return joined(groups, kNoGroup)[num_kept_][top_k_];
  }
  // Of the experts of the group in front of each of them, and of all of them.
  std::vector<ByCount> in_front_of_each(size_t group) const {
    std::vector<ByCount> before{nothing_drawn()};
    for (const double chance : chances_of(group)) {
      before.push_back(before.back());
      add_expert(before.back(), chance);
    }
    return before;
  }
  // Gives each expert of the group in turn the chance that meets its share, all others left as they
  // are. Returns how far the shares were away.
  double fit_group(size_t group, const std::vector<ByCount>& groups) {
    const size_t size = chances_.size() / num_groups_, first = group * size;
    const std::vector<ByCount> before = in_front_of_each(group);
    // Coefficient j: the weight of what the other groups and the experts behind add to j experts.
    const ByGroups others = joined(groups, group);
    ByCount rest(others[num_kept_ - 1].rbegin(), others[num_kept_ - 1].rend());
    rest[0] = others[num_kept_][top_k_];
    double furthest = 0;
    for (size_t i = size; i-- > 0;) {
      double drawn = 0, left = rest[0] * before[i][0];
      for (size_t j = 1; j <= top_k_; ++j) {
        drawn += rest[j] * before[i][j - 1];
        left += rest[j] * before[i][j];
      }
      double& chance = chances_[first + i];
      const double wanted = shares_[first + i];
      const double weight = chance * drawn + (1 - chance) * left;
      if (!(weight > 0)) return std::numeric_limits<double>::infinity();  // no draw counts
      furthest = std::max(furthest, std::abs(chance * drawn / weight - wanted));
      // With this chance c, c drawn / (c drawn + (1 - c) left) is what is wanted.
      const double fitting = wanted * left, whole = fitting + (1 - wanted) * drawn;
      if (whole > 0) chance = fitting / whole;
      for (size_t j = 0; j <= top_k_; ++j)
        rest[j] = (1 - chance) * rest[j] + (j < top_k_ ? chance * rest[j + 1] : 0);
    }
    return furthest;
  }
  void fit() {
    constexpr double kClose = 1e-9, kGood = 1e-4;  // no plan shows more digits
    constexpr int kSweeps = 2000;  // about 10 suffice; one group kept and great skew: hundreds
    auto groups = groups_without(0, 0);
    double away = 1;
    for (int sweep = 0; sweep < kSweeps && away > kClose && std::isfinite(away); ++sweep) {
      away = 0;
      for (size_t g = 0; g < num_groups_; ++g) {
        away = std::max(away, fit_group(g, groups));
        groups[g] = group_without(g, 0, 0);
      }
    }
    total_ = weight_of(groups);
    SWITCHYARD_REQUIRE(away <= kGood, BadRouting, "plan: expert counts, no choice of K=", top_k_,
                       " experts out of ", num_kept_, " of ", num_groups_,
                       " groups has them. Use counts that were recorded with this gate.");
  }

  size_t num_groups_, num_kept_, top_k_;  // kept: not more than K
  std::vector<double> shares_;            // [E] as given
  std::vector<double> chances_;           // [E] of being drawn by itself
  double total_ = 1;                      // weight of all draws that count
};

}  // namespace switchyard
