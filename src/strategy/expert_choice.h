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

#include <cstdint>
#include <span>
#include <vector>

#include "switchyard/config.h"

namespace switchyard {

class ExpertChoice {
 public:
  // shares[e] in [0, 1]: how often expert e is among the K of a token; they add up to K. Throws
  // BadRouting if no choice within the groups of the gate has these shares.
  ExpertChoice(const MoeConfig& config, std::vector<double> shares);

  double share(int64_t expert) const { return shares_[expert]; }

  // How often at least one of the experts [begin, end) is among the K.
  double any_of(int64_t begin, int64_t end) const;

 private:
  // Coefficient j: the weight of draws with j experts, j <= K.
  using ByCount = std::vector<double>;
  // Coefficient [m][j]: of draws with j experts, out of m groups.
  using ByGroups = std::vector<ByCount>;

  std::span<const double> chances_of(size_t group) const;
  ByCount nothing_drawn() const;
  ByCount group_without(size_t group, int64_t begin, int64_t end) const;
  std::vector<ByCount> groups_without(int64_t begin, int64_t end) const;
  ByGroups joined(const std::vector<ByCount>& groups, size_t left_out) const;
  double weight_of(const std::vector<ByCount>& groups) const;
  // Of the experts of the group in front of each of them, and of all of them.
  std::vector<ByCount> in_front_of_each(size_t group) const;
  double fit_group(size_t group, const std::vector<ByCount>& groups);
  void fit();

  size_t num_groups_, num_kept_, top_k_;  // kept: not more than K
  std::vector<double> shares_;            // [E] as given
  std::vector<double> chances_;           // [E] of being drawn by itself
  double total_ = 1;                      // weight of all draws that count
};

}  // namespace switchyard
