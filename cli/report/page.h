// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/page.h -- results as one page of HTML that needs nothing else: no network, no script.
#pragma once

#include <string>
#include <vector>

#include "report/charts.h"
#include "report/results.h"

namespace switchyard::cli {

inline constexpr size_t kMostPageBytes = 300'000;

// A layer at one number of tokens, beside the best opponent. Rows of the first table.
struct Headline {
  const BenchRun* run;
  const BenchRow* row;
  const Peer* best_peer = nullptr;  // null: none, or of another device
  Peer::Time peer{};

  // Time over floor of ours over that of the opponent; below 1 ours is faster.
  double of_peer() const { return row->of_floor() / peer.of_floor(); }
};
std::vector<Headline> headlines(const Results& results);

// Throws Error(Unsupported) where it would be larger than kMostPageBytes.
std::string report_page(const Results& results);

// The pictures of the page, each as a file of its own.
std::vector<Chart> report_charts(const Results& results);

}  // namespace switchyard::cli
