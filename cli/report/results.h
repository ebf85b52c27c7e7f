// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/results.h -- what files of results say, checked: runs of `switchyard bench`, expert
// counts of `switchyard run`, times of opponents. Nothing here was believed because of its name.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace switchyard::cli {

// What no machine passes, so that no picture and no product leaves the range of a double.
inline constexpr double kLeastUs = 1e-6, kMostUs = 1e12, kMostWork = 1e20;
inline constexpr double kLeastRate = 1e-6, kMostRate = 1e9;

// Whether a row with this "peer" is of Switchyard: results without peers have none.
inline bool is_ours(std::string_view peer) {
  return peer.empty() || peer.starts_with("switchyard");
}

// One operation, part or whole layer at one number of tokens.
struct BenchRow {
  std::string op, strategy, layout;
  std::string peer;  // whose it is, in results of `python -m switchyard.bench --peers`
  int64_t tokens = 0;
  int64_t batch = 0;  // sequences of a step of linear attention; 0: an operation of a layer
  double us = 0;
  double us_min = 0, us_max = 0;  // 0: unknown
  double floor_us = 0;            // 0: it has none
  double bytes = 0, flops = 0, link_gbps = 0;
  bool eager = false;
  size_t index = 0;  // of the rows in its run's raw

  bool is_ours() const { return cli::is_ours(peer); }
  bool is_layer() const { return op == "layer" || op == "layer_given_routing"; }
  double of_floor() const { return floor_us > 0 && us >= kLeastUs ? us / floor_us : 0; }
};

struct BenchCheck {
  int64_t tokens = 0;
  std::string strategy, problem;
  std::optional<double> rel_error;
  bool failed = false;
};

struct BenchRun {
  std::string name;     // the model, as its file calls it, or else its layer
  std::string section;  // of its file: bench, ranks, layer ...
  std::string layer, device, driver, date, commit, version, routing, error;
  int64_t ranks = 1, devices = 0, repeat = 0, threads = 0;
  double read_gbps = 0, copy_gbps = 0, tflops = 0, sm_clock_mhz = 0;  // 0: unknown
  size_t file = 0;                                                    // of Results::files
  std::vector<BenchRow> rows;
  std::vector<BenchCheck> checks;
  nlohmann::json raw;

  bool is_plain() const { return routing.empty() || routing == "random"; }
  bool is_linear_attention() const { return !rows.empty() && rows.front().batch > 0; }
  // Of the whole layer at this many tokens, the fastest; none where it was not measured.
  const BenchRow* fastest_layer(int64_t tokens) const;
  std::vector<int64_t> tokens() const;  // ascending, of layers
  std::optional<double> error_of(const BenchRow& row) const;
};

struct ExpertLoad {
  std::string name;
  std::vector<int64_t> counts;
};

// An opponent's layers, on one device.
struct Peer {
  struct Time {
    double us, floor_us;
    double of_floor() const { return us / floor_us; }
  };
  std::string name, device;  // device: empty where the file does not say it
  std::map<std::pair<std::string, int64_t>, Time> times;  // model, tokens

  // What this run may be compared with: the same model on one of the same device.
  const Time* find(const BenchRun& run, int64_t tokens) const;
};

struct ResultsFile {
  std::string path, date, commit, text;
  nlohmann::json json;                 // null for a table of opponents
  std::vector<std::string> not_shown;  // its other sections
};

struct Results {
  std::vector<ResultsFile> files;
  std::vector<BenchRun> runs;
  std::vector<ExpertLoad> loads;
  std::vector<Peer> peers;
};

// Throws Error(BadFile): `report: path=..., <where>=<value>, <rule>. <remedy>.`
Results read_results(const std::vector<std::string>& paths);
// Of the object that a run printed; `name` stands for its file.
Results results_of(const std::string& name, nlohmann::json json);

}  // namespace switchyard::cli
