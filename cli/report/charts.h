// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/charts.h -- the pictures of a report: one question each.
#pragma once

#include <string>
#include <vector>

#include "report/results.h"
#include "report/svg.h"

namespace switchyard::cli {

struct Chart {
  std::string file;  // its name as a file of its own, without .svg
  Svg svg;
};

// Of runs that differ in nothing but their date the newest, in the order of the files.
std::vector<const BenchRun*> newest_runs(const Results& results);

// A layer at the tokens of decode, and at the most that were measured.
std::vector<const BenchRow*> layers_shown_in_parts(const BenchRun& run);
// The operations of this layer, in their order, and the layer.
std::vector<const BenchRow*> parts_of(const BenchRun& run, const BenchRow& layer);

// How far above its floor is a layer, by tokens; opponents beside it.
std::vector<Chart> ratio_charts(const Results& results);
// What keeps it from being faster: memory or multiply-adds, as this machine was measured.
std::vector<Chart> rooflines(const Results& results);
// Where does the time of a layer go?
std::vector<Chart> operation_charts(const Results& results);
// What do ranks cost?
std::vector<Chart> rank_charts(const Results& results);
// How even is the load of the experts?
std::vector<Chart> load_charts(const Results& results);
// Has it become faster? Of runs that several files have.
std::vector<Chart> trend_charts(const Results& results);

}  // namespace switchyard::cli
