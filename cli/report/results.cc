// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/results.cc
#include "report/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

#include "report/svg.h"
#include "switchyard/error.h"

namespace switchyard::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uintmax_t kMostBytes = 64 << 20;
constexpr int kMostDepth = 32;
constexpr size_t kMostRows = 100'000, kMostExperts = 1 << 16;
constexpr const char* kWriteIt = "Write the file with `switchyard bench --json`";

// Of a file, for a line on a terminal: short, and without what a terminal would obey.
std::string shown(std::string_view value) {
  std::string text = shortened(value, 60);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

std::string shown_json(const Json& value) {
  return shown(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// A place in a file, for errors: `bench.olmoe-1b-7b.rows[3]`.
class Place {
 public:
  Place(std::string path, std::string at = "") : path_(std::move(path)), at_(std::move(at)) {}

  Place operator/(std::string_view key) const {
    return {path_, (at_.empty() ? "" : at_ + ".") + shown(key)};
  }
  Place operator/(size_t index) const { return {path_, fmt::format("{}[{}]", at_, index)}; }

  // "<what>, <the rule>. <What to do>"
  [[noreturn]] void refuse(const std::string& what, const char* remedy = kWriteIt) const {
    throw Error(Errc::BadFile, fmt::format("report: path={}, {}{}. {}.", path_, at_, what, remedy));
  }

 private:
  std::string path_, at_;
};

// ---- values

const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

struct Limits {
  double least, most;
};

double checked_number(const Json& value, const Place& place, Limits limits) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  // Written so that NaN is in no range.
  if (!(number >= limits.least && number <= limits.most))
    place.refuse(fmt::format("={}, need a number from {:g} to {:g}", shown_json(value),
                             limits.least, limits.most));
  return number;
}

double number_of(const Json& object, const char* key, const Place& place, Limits limits) {
  const Json* value = find(object, key);
  if (value == nullptr) (place / key).refuse(" is missing, each row has it");
  return checked_number(*value, place / key, limits);
}

double number_or_0(const Json& object, const char* key, const Place& place, double most) {
  const Json* value = find(object, key);
  return value == nullptr ? 0 : checked_number(*value, place / key, {0, most});
}

int64_t integer_of(const Json& object, const char* key, const Place& place, int64_t least,
                   std::optional<int64_t> otherwise = {}) {
  const Json* value = find(object, key);
  if (value == nullptr && otherwise) return *otherwise;
  if (value == nullptr) (place / key).refuse(" is missing, each row has it");
  // From the double: what does not fit int64_t wraps around otherwise.
  const double number =
      checked_number(*value, place / key, {static_cast<double>(least), 2147483647.0});
  if (number != std::floor(number))
    (place / key).refuse(fmt::format("={}, need an integer", shown_json(*value)));
  return static_cast<int64_t>(number);
}

std::string text_of(const Json& object, const char* key, const Place& place) {
  const Json* value = find(object, key);
  if (value == nullptr) return {};
  if (!value->is_string())
    (place / key).refuse(fmt::format("={}, need a string", shown_json(*value)));
  return value->get<std::string>();
}

bool flag_of(const Json& object, const char* key, const Place& place) {
  const Json* value = find(object, key);
  if (value == nullptr) return false;
  if (!value->is_boolean())
    (place / key).refuse(fmt::format("={}, need true or false", shown_json(*value)));
  return value->get<bool>();
}

// ---- a run

BenchRow row_of(const Json& json, const Place& place) {
  if (!json.is_object()) place.refuse(fmt::format("={}, need an object", shown_json(json)));
  BenchRow row;
  row.op = text_of(json, "op", place);
  if (row.op.empty()) (place / "op").refuse(" is missing, each row has it");
  row.peer = text_of(json, "peer", place);
  row.strategy = text_of(json, "strategy", place);
  if (row.strategy.empty()) row.strategy = row.peer;
  row.layout = text_of(json, "layout", place);
  row.tokens = integer_of(json, "tokens", place, 0);
  row.batch = integer_of(json, "batch", place, 1, 0);
  row.us = number_of(json, "us", place, {0, kMostUs});
  row.us_min = number_or_0(json, "us_min", place, kMostUs);
  row.us_max = number_or_0(json, "us_max", place, kMostUs);
  row.floor_us = number_or_0(json, "floor_us", place, kMostUs);
  row.bytes = number_or_0(json, "bytes", place, kMostWork);
  row.flops = number_or_0(json, "flops", place, kMostWork);
  row.link_gbps = number_or_0(json, "link_gbps", place, kMostRate);
  row.eager = flag_of(json, "eager", place);
  // Less is no limit of a machine and no work, and no picture shows it.
  if (row.floor_us < kLeastUs) row.floor_us = 0;
  for (double* work : {&row.bytes, &row.flops})
    if (*work < 1) *work = 0;
  return row;
}

std::vector<BenchCheck> checks_of(const Json& run, const char* key, const Place& place) {
  std::vector<BenchCheck> checks;
  const Json* list = find(run, key);
  if (list == nullptr) return checks;
  if (!list->is_array()) (place / key).refuse(fmt::format("={}, need an array", shown_json(*list)));
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& json = (*list)[i];
    const Place at = place / key / i;
    if (!json.is_object()) at.refuse(fmt::format("={}, need an object", shown_json(json)));
    BenchCheck check;
    check.tokens = integer_of(json, "tokens", at, 0, 0);
    check.strategy = text_of(json, "strategy", at);
    check.problem = text_of(json, "problem", at);
    check.failed = flag_of(json, "failed", at);
    if (find(json, "rel_error") != nullptr)
      check.rel_error = number_or_0(json, "rel_error", at, kMostUs);
    checks.push_back(std::move(check));
  }
  return checks;
}

// "preset deepseek-v3, share 0 of 8, random weights" is deepseek-v3-ep8, as results files call it.
std::string model_of(std::string_view layer) {
  if (!layer.starts_with("preset ")) return std::string(layer);
  layer.remove_prefix(7);
  std::string model(layer.substr(0, layer.find(',')));
  constexpr std::string_view kShare = ", share ";
  if (const size_t share = layer.find(kShare); share != layer.npos) {
    const size_t of = layer.find(" of ", share);
    if (of != layer.npos)
      model += fmt::format("-ep{}", layer.substr(of + 4, layer.find(',', of) - of - 4));
  }
  return model;
}

struct Section {
  std::string name;
  size_t file;
};

// What is said once for all runs of a file.
std::string text_or(const std::string& own, const Json& file, const char* key, const Place& place) {
  const bool has_text = own.empty() && file.contains(key) && file[key].is_string();
  return has_text ? text_of(file, key, place) : own;
}

BenchRun run_of(const Json& json, const Json& file, const Section& section, std::string name,
                const Place& place) {
  BenchRun run;
  run.section = section.name, run.file = section.file;
  run.layer = text_of(json, "layer", place);
  run.device = text_of(json, "device", place);
  for (const char* key : {"gpu", "machine"}) run.device = text_or(run.device, file, key, place);
  run.driver = text_or(text_of(json, "driver", place), file, "driver", place);
  run.date = text_or(text_of(json, "date", place), file, "date", place);
  run.commit = text_or(text_of(json, "commit", place), file, "commit", place);
  run.version = text_of(json, "version", place);
  run.routing = text_of(json, "routing", place);
  run.error = text_of(json, "error", place);
  run.ranks = integer_of(json, "ranks", place, 1, 1);
  run.devices = integer_of(json, "devices", place, 0, 0);
  run.threads = integer_of(json, "threads", place, 0, 0);
  run.repeat = integer_of(json, "repeat", place, 0, 0);
  run.read_gbps = number_or_0(json, "read_gbps", place, kMostRate);
  run.copy_gbps = number_or_0(json, "copy_gbps", place, kMostRate);
  if (run.copy_gbps == 0) run.copy_gbps = number_or_0(json, "gbps", place, kMostRate);
  run.tflops = number_or_0(json, "gemm_tflops", place, kMostRate);
  if (run.tflops == 0) run.tflops = number_or_0(json, "fma_gflops", place, kMostRate) / 1e3;
  run.sm_clock_mhz = number_or_0(json, "sm_clock_mhz", place, kMostRate);
  for (double* rate : {&run.read_gbps, &run.copy_gbps, &run.tflops})
    if (*rate < kLeastRate) *rate = 0;
  const Json& rows = json.at("rows");
  if (!rows.is_array())
    (place / "rows").refuse(fmt::format("={}, need an array", shown_json(rows)));
  if (rows.size() > kMostRows)
    (place / "rows")
        .refuse(fmt::format(" has {} rows, at most {} are read", rows.size(), kMostRows));
  for (size_t i = 0; i < rows.size(); ++i) {
    run.rows.push_back(row_of(rows[i], place / "rows" / i));
    run.rows.back().index = i;
  }
  const std::string strategy = text_of(json, "strategy", place);  // of all rows, on the CPU
  for (BenchRow& row : run.rows)
    if (row.strategy.empty()) row.strategy = strategy;
  for (size_t i = 0; i < rows.size(); ++i)  // beside peers a row has its own error
    if (const BenchRow& row = run.rows[i]; !row.peer.empty() && find(rows[i], "error") != nullptr)
      run.checks.push_back({row.tokens, row.strategy, "",
                            number_or_0(rows[i], "error", place / "rows" / i, kMostUs), false});
  for (const char* key : {"checks", "refusals"})
    for (auto& check : checks_of(json, key, place)) run.checks.push_back(std::move(check));
  run.name = !name.empty()               ? std::move(name)
             : run.is_linear_attention() ? "linear attention"
                                         : model_of(run.layer);
  if (run.name.empty()) run.name = section.name.empty() ? "layer" : section.name;
  run.raw = json;
  return run;
}

std::vector<int64_t> counts_of(const Json& list, const Place& place) {
  if (!list.is_array() || list.empty() || list.size() > kMostExperts)
    place.refuse(
        fmt::format("={}, need an array of 1 to {} counts", shown_json(list), kMostExperts),
        "Write the file with `switchyard run --json`");
  std::vector<int64_t> counts;
  for (size_t i = 0; i < list.size(); ++i)
    counts.push_back(static_cast<int64_t>(checked_number(list[i], place / i, {0, 1e15})));
  return counts;
}

// ---- a file

class FileReader {
 public:
  FileReader(Results& results, std::string path) : all_(results), path_(std::move(path)) {}

  void read_json(Json json, std::string text) {
    const Place top(path_);
    if (!json.is_object()) top.refuse(fmt::format("holds {}, need one object", shown_json(json)));
    all_.files.push_back({path_, "", "", std::move(text), std::move(json), {}});
    ResultsFile& file = all_.files.back();
    file.date = text_or("", file.json, "date", top);
    file.commit = text_or("", file.json, "commit", top);
    const size_t before = all_.runs.size() + all_.loads.size();
    read_sections(file, top);
    for (auto& [name, peer] : peers_) all_.peers.push_back(std::move(peer));
    if (all_.runs.size() + all_.loads.size() == before)
      top.refuse("holds no run of `switchyard bench` and no expert_counts of `switchyard run`");
    name_apart();
  }

 private:
  size_t index() const { return all_.files.size() - 1; }

  void add(const Json& json, const std::string& section, std::string name, const Place& place) {
    all_.runs.push_back(
        run_of(json, all_.files.back().json, {section, index()}, std::move(name), place));
    take_peers(all_.runs.back(), place);
  }

  // What others took, out of a run that has them beside ours. Routing given is compared, or else
  // the gate inside.
  void take_peers(BenchRun& run, const Place& place) {
    const bool any_given = std::ranges::any_of(
        run.rows, [](const BenchRow& r) { return r.op == "layer_given_routing" && r.is_ours(); });
    const size_t all = run.rows.size();
    std::erase_if(run.rows, [&](const BenchRow& row) {
      if (row.is_ours()) return false;
      Peer& peer = peers_[row.peer];
      peer.name = row.peer, peer.device = run.device;
      if (row.op == (any_given ? "layer_given_routing" : "layer") && row.of_floor() > 0)
        peer.times[{run.name, row.tokens}] = {row.us, row.floor_us};
      return true;
    });
    if (run.rows.empty() && all > 0)
      (place / "rows").refuse(" are of peers alone, none is ours", "Time switchyard beside them");
  }

  void read_sections(ResultsFile& file, const Place& top) {
    const Json& json = file.json;
    if (json.contains("rows")) return add(json, "", "", top);
    if (json.contains("expert_counts")) {
      const std::string layer = text_of(json, "layer", top);
      all_.loads.push_back(
          {layer.empty() ? path_ : layer, counts_of(json["expert_counts"], top / "expert_counts")});
      return;
    }
    for (const auto& [key, value] : json.items())
      if (value.is_structured() && !read_section(key, value, top / key))
        file.not_shown.push_back(key);
  }

  bool read_section(const std::string& key, const Json& value, const Place& place) {
    if (key == "bench" || key == "ranks") return read_named(key, value, place);
    if (key == "layer" || key == "linear_attention") {
      if (!value.is_object() || !value.contains("rows"))
        place.refuse(" has no rows, a run has them");
      add(value, key, "", place);
      return true;
    }
    return key == "runs" && read_list(value, place);
  }

  // Runs by the name of their model. Collectives of NCCL are no layers.
  bool read_named(const std::string& key, const Json& value, const Place& place) {
    if (!value.is_object()) place.refuse(fmt::format("={}, need an object", shown_json(value)));
    bool any = false;
    for (const auto& [name, run] : value.items()) {
      if (!run.is_object() || name == "nccl") continue;
      if (!run.contains("rows")) (place / name).refuse(" has no rows, a run has them");
      add(run, key, name, place / name);
      any = true;
    }
    return any;
  }

  // Runs of layers; those of the grouped GEMM alone name instructions as their target.
  bool read_list(const Json& value, const Place& place) {
    bool any = false;
    for (size_t i = 0; value.is_array() && i < value.size(); ++i) {
      const Json& run = value[i];
      if (!run.is_object() || !run.contains("rows") || run.contains("target")) continue;
      add(run, "runs", text_of(run, "layer", place / i).empty() ? fmt::format("run {}", i + 1) : "",
          place / i);
      any = true;
    }
    return any;
  }

  // Runs of one file that would be taken for one another.
  void name_apart() {
    std::map<std::pair<std::string, std::string>, int> seen;
    for (BenchRun& run : all_.runs) {
      if (run.file != index()) continue;
      const int count = ++seen[{run.section, run.name}];
      if (count > 1) run.name += fmt::format(" ({})", count);
    }
  }

  Results& all_;
  std::string path_;
  std::map<std::string, Peer> peers_;
};

std::string read_text(const std::string& path) {
  const Place place(path);
  std::error_code failed;
  if (!fs::is_regular_file(path, failed))
    place.refuse(fs::exists(path, failed) ? "is no regular file" : "does not exist",
                 "Name a results file");
  const auto bytes = fs::file_size(path, failed);
  if (failed || bytes > kMostBytes)
    place.refuse(fmt::format("bytes={}, at most {} are read", bytes, kMostBytes),
                 "Name a results file");
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(bytes), '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(bytes)))
    place.refuse("cannot be read", "Look at its permissions");
  return text;
}

Json parsed(const std::string& text, const Place& place) {
  // dump() calls itself for each level.
  const auto not_too_deep = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMostDepth)
      place.refuse(fmt::format("is nested deeper than {} levels", kMostDepth));
    return true;
  };
  try {
    return Json::parse(text, not_too_deep);
  } catch (const Json::exception& e) {
    const std::string why = e.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const size_t end = why.find("] ");
    place.refuse(
        fmt::format("is no JSON ({})", shown(end == why.npos ? why : why.substr(end + 2))));
  }
}

// ---- opponents: a table with tabs, as scripts/compare_peers.py reads it

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields(1);
  for (const char c : line)
    if (c == '\t')
      fields.emplace_back();
    else if (c != '\r')
      fields.back() += c;
  return fields;
}

class PeerTable {
 public:
  PeerTable(Results& results, std::string path) : all_(results), place_(std::move(path)) {}

  void read(const std::string& text) {
    std::istringstream lines(text);
    size_t line_number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++line_number;
      if (line.starts_with('#'))
        read_comment(line);
      else if (columns_.empty())
        read_head(fields_of(line));
      else if (!line.empty())
        read_line(fields_of(line), place_ / fmt::format("line {}", line_number));
    }
    if (columns_.empty()) refuse("has no line of columns");
    for (auto& [name, peer] : peers_) all_.peers.push_back(std::move(peer));
  }

 private:
  static constexpr std::string_view kEnding = "_layer_us";

  [[noreturn]] void refuse(const std::string& what) const {
    place_.refuse(what,
                  "Give a JSON object of `switchyard bench`, or a table of peers with the "
                  "columns model, tokens, floor_us and NAME_layer_us");
  }

  void read_comment(const std::string& line) {
    constexpr std::string_view kGpu = "# gpu: ";
    if (line.starts_with(kGpu)) device_ = line.substr(kGpu.size());
  }

  size_t column(std::string_view name) const {
    const auto found = std::ranges::find(columns_, name);
    if (found == columns_.end()) refuse(fmt::format("has no column {}", name));
    return static_cast<size_t>(found - columns_.begin());
  }

  void read_head(std::vector<std::string> names) {
    columns_ = std::move(names);
    model_ = column("model"), tokens_ = column("tokens"), floor_ = column("floor_us");
    if (std::ranges::none_of(columns_, [](const auto& name) { return name.ends_with(kEnding); }))
      refuse("has no column NAME_layer_us");
  }

  double number_in(const std::string& text, const Place& place, Limits limits) const {
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool good = error == std::errc() && stop == text.data() + text.size();
    if (!good || !(value >= limits.least && value <= limits.most))
      place.refuse(fmt::format("={}, need a number from {:g} to {:g}", shown(text), limits.least,
                               limits.most),
                   "Measure it again, or write - where there is none");
    return value;
  }

  void read_line(const std::vector<std::string>& fields, const Place& place) {
    if (fields.size() != columns_.size())
      place.refuse(fmt::format(" has {} fields, need {}", fields.size(), columns_.size()),
                   "Write - where there is none");
    const auto tokens =
        static_cast<int64_t>(number_in(fields[tokens_], place / "tokens", {1, 2147483647.0}));
    const double floor = number_in(fields[floor_], place / "floor_us", {kLeastUs, kMostUs});
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (!columns_[i].ends_with(kEnding) || fields[i] == "-" || fields[i].empty()) continue;
      Peer& peer = peers_[columns_[i]];
      peer.name = columns_[i].substr(0, columns_[i].size() - kEnding.size());
      std::ranges::replace(peer.name, '_', ' ');
      peer.device = device_;
      peer.times[{fields[model_], tokens}] = {
          number_in(fields[i], place / columns_[i], {kLeastUs, kMostUs}), floor};
    }
  }

  Results& all_;
  Place place_;
  std::string device_;
  std::vector<std::string> columns_;
  size_t model_ = 0, tokens_ = 0, floor_ = 0;
  std::map<std::string, Peer> peers_;
};

}  // namespace

// ---- what is asked of results

const BenchRow* BenchRun::fastest_layer(int64_t wanted) const {
  const BenchRow* best = nullptr;
  // With routing given where that was measured: opponents are timed so.
  for (const char* op : {"layer_given_routing", "layer"}) {
    for (const BenchRow& row : rows)
      if (row.op == op && row.tokens == wanted && !row.eager && (!best || row.us < best->us))
        best = &row;
    if (best) break;
  }
  return best;
}

std::vector<int64_t> BenchRun::tokens() const {
  std::set<int64_t> all;
  for (const BenchRow& row : rows)
    if (row.is_layer() && !row.eager) all.insert(row.tokens);
  return {all.begin(), all.end()};
}

std::optional<double> BenchRun::error_of(const BenchRow& row) const {
  std::optional<double> worst;
  for (const BenchCheck& check : checks)
    if (check.rel_error && check.strategy == row.strategy && check.tokens == row.tokens)
      worst = std::max(worst.value_or(0), *check.rel_error);
  return worst;
}

const Peer::Time* Peer::find(const BenchRun& run, int64_t tokens) const {
  if (run.ranks != 1 || (!device.empty() && device != run.device)) return nullptr;
  const auto found = times.find({run.name, tokens});
  return found == times.end() ? nullptr : &found->second;
}

Results read_results(const std::vector<std::string>& paths) {
  Results results;
  for (const std::string& path : paths) {
    std::string text = read_text(path);
    const size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string::npos) Place(path).refuse("is empty");
    if (text[first] == '{' || text[first] == '[') {
      Json json = parsed(text, Place(path));
      FileReader(results, path).read_json(std::move(json), std::move(text));
    } else {
      PeerTable(results, path).read(text);
      results.files.push_back({path, "", "", std::move(text), {}, {}});
    }
  }
  if (results.runs.empty() && results.loads.empty())
    Place(paths.front()).refuse("holds times of peers alone", "Name a results file beside it");
  return results;
}

Results results_of(const std::string& name, Json json) {
  Results results;
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  FileReader(results, name).read_json(std::move(json), std::move(text));
  return results;
}

}  // namespace switchyard::cli
