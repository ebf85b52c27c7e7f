// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/routing.cc
#include "routing.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <utility>

#include "commands.h"
#include "switchyard/error.h"

namespace switchyard::cli {
namespace {

// ---- the routing of a benchmark

// log popularity of each expert; the top-k of it plus Gumbel noise are the choice.
std::vector<double> bias_of(const std::string& kind, int64_t num_experts) {
  std::vector<double> bias(num_experts, 0.0);
  if (kind == "zipf")
    for (size_t e = 0; e < bias.size(); ++e) bias[e] = -std::log(static_cast<double>(e + 1));
  else if (kind == "hot")
    bias[bias.size() / 2] = 100;
  else
    require_usage(kind == "random" || kind == "balanced",
                  "--routing={}, need random, balanced, zipf or hot", kind);
  return bias;
}

void softmax(float* values, int64_t count) {
  const float max = *std::max_element(values, values + count);
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += values[i] = std::exp(values[i] - max);
  for (int64_t i = 0; i < count; ++i) values[i] /= sum;
}

// ---- how often experts are chosen

std::vector<double> zipf_at(double scale, int64_t num_experts) {
  std::vector<double> shares;
  for (int64_t e = 0; e < num_experts; ++e)
    shares.push_back(scale / (scale + static_cast<double>(e + 1)));
  return shares;
}

// The scale at which K experts are chosen in all, by bisection to the last bit.
std::vector<double> zipf(const MoeConfig& c) {
  if (c.top_k == c.num_experts) return {};
  double low = 0, high = 1;
  const auto chosen = [&](double scale) {
    const auto shares = zipf_at(scale, c.num_experts);
    return std::accumulate(shares.begin(), shares.end(), 0.0);
  };
  const auto k = static_cast<double>(c.top_k);
  while (chosen(high) < k) high *= 2;
  for (int i = 0; i < 64; ++i) {
    const double middle = (low + high) / 2;
    (chosen(middle) < k ? low : high) = middle;
  }
  return zipf_at(low, c.num_experts);
}

// Neighbours end up about 0.618 E apart: a golden step leaves no rank without its turn.
std::vector<double> spread(const std::vector<double>& counts) {
  const auto size = static_cast<int64_t>(counts.size());
  auto step = static_cast<int64_t>(static_cast<double>(size) * 0.618) | 1;
  while (std::gcd(step, size) > 1) step += 2;
  std::vector<double> moved(counts.size());
  for (int64_t e = 0; e < size; ++e) moved[e * step % size] = counts[e];
  return moved;
}

std::vector<double> hot(const MoeConfig& c) {
  const auto others = static_cast<double>(c.num_experts - 1);
  std::vector<double> counts(c.num_experts,
                             others > 0 ? static_cast<double>(c.top_k - 1) / others : 0);
  counts[counts.size() / 2] = 1;
  return counts;
}

// What an option's file holds. It may be damaged, or none.
class Recording {
 public:
  struct Source {
    const char* option;  // of a command, as errors name it
    uintmax_t most_bytes;
    const char* none;  // what is said of a path that is no file
    bool stdin_too;    // as "-"
  };
  Recording(const Source& source, std::string path) : source_(source), path_(std::move(path)) {}

  std::vector<double> counts() const {
    const std::string text = read();
    return is_json(text) ? counts_of(parsed(text)) : from_words(text);
  }

  std::vector<std::vector<double>> layers() const {
    const std::string text = read();
    std::vector<std::vector<double>> layers;
    if (!is_json(text))
      layers.push_back(from_words(text));
    else
      for (const auto& value : values_of(text)) add_layers(layers, value);
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      const size_t count = layers[layer].size(), first = layers.front().size();
      if (count == 0 || count != first)
        refuse(fmt::format("layer {} holds {} loads, layer 0 {}. Give one for each expert", layer,
                           count, first));
    }
    return layers;
  }

  // Of a plan: the experts in the slots of each layer.
  std::vector<std::vector<int32_t>> slots() const {
    const std::string text = read();
    refuse_depth(text);
    const Json plan = parsed(text);
    if (!plan.is_object() || !plan.contains("physical_to_logical") ||
        !plan["physical_to_logical"].is_array())
      refuse("has no physical_to_logical. Make it with `switchyard plan --placement --json`");
    std::vector<std::vector<int32_t>> layers;
    for (const Json& row : plan["physical_to_logical"]) layers.push_back(experts_in(row));
    return layers;
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(Errc::BadFile, fmt::format("{}={}, {}.", source_.option, path_, why));
  }

 private:
  using Json = nlohmann::json;

  std::string read() const {
    if (source_.stdin_too && path_ == "-") return read_from(std::cin, source_.most_bytes + 1);
    std::error_code failed;
    if (!std::filesystem::is_regular_file(path_, failed)) refuse(source_.none);
    const auto bytes = std::filesystem::file_size(path_, failed);
    if (failed || bytes > source_.most_bytes) refuse_size(bytes);
    std::ifstream file(path_, std::ios::binary);
    std::string text = read_from(file, bytes);
    if (text.size() != bytes) refuse("cannot be read. Record it again");
    return text;
  }

  // At most so many.
  std::string read_from(std::istream& stream, uintmax_t bytes) const {
    std::string text(static_cast<size_t>(bytes), '\0');
    stream.read(text.data(), static_cast<std::streamsize>(bytes));
    text.resize(static_cast<size_t>(stream.gcount()));
    if (text.size() > source_.most_bytes) refuse_size(text.size());
    return text;
  }

  [[noreturn]] void refuse_size(uintmax_t bytes) const {
    refuse(fmt::format("bytes={}, at most {} are read. Give one count for each expert", bytes,
                       source_.most_bytes));
  }

  static bool is_json(const std::string& text) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    return first != std::string::npos && (text[first] == '{' || text[first] == '[');
  }

  Json parsed(std::string_view text) const {
    auto json = Json::parse(text.begin(), text.end(), nullptr, false);
    if (json.is_discarded()) refuse("is no JSON. Record it again");
    return json;
  }
  // Each level takes memory of its own, and one call of add_layers. Brackets in strings count, too.
  void refuse_depth(const std::string& text) const {
    constexpr int kDeepest = 64;  // a recording has 4 levels
    int depth = 0;
    for (const char c : text) {
      depth += (c == '[' || c == '{') - (c == ']' || c == '}');
      if (depth > kDeepest) refuse("is nested deeper than any recording. Record it again");
    }
  }
  // One value, or one a line.
  std::vector<Json> values_of(const std::string& text) const {
    refuse_depth(text);
    std::vector<Json> values;
    if (Json whole = Json::parse(text, nullptr, false); !whole.is_discarded()) {
      values.push_back(std::move(whole));
      return values;
    }
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
      if (line.find_first_not_of(" \t\r") != std::string::npos) values.push_back(parsed(line));
    return values;
  }

  const Json& list_of(const Json& json) const {
    if (json.is_object() && !json.contains("expert_counts"))
      refuse("has no expert_counts. Record it with `switchyard run --json`");
    const Json& list = json.is_object() ? json["expert_counts"] : json;
    if (!list.is_array()) refuse("expert_counts is no array. Record it again");
    return list;
  }

  std::vector<double> counts_of(const Json& json) const {
    std::vector<double> counts;
    for (const Json& value : list_of(json)) {
      if (!value.is_number())
        refuse(fmt::format("count {} is no number. Record it again", counts.size()));
      counts.push_back(value.get<double>());
    }
    return counts;
  }

  std::vector<int32_t> experts_in(const Json& row) const {
    if (!row.is_array()) refuse("physical_to_logical has no array for each layer. Plan it again");
    std::vector<int32_t> experts;
    for (const Json& value : row) {
      if (!value.is_number_integer() || value.get<int64_t>() < -1 ||
          value.get<int64_t>() >= kMaxExperts)
        refuse(fmt::format("slot {} is no expert of 0 to {}, nor -1. Plan it again", experts.size(),
                           kMaxExperts - 1));
      experts.push_back(value.get<int32_t>());
    }
    return experts;
  }

  void add_layers(std::vector<std::vector<double>>& layers, const Json& json) const {
    const Json& list = list_of(json);
    const bool holds_layers = !list.empty() && list.front().is_structured();
    if (!holds_layers) return layers.push_back(counts_of(list));
    for (const Json& value : list) add_layers(layers, value);
  }

  std::vector<double> from_words(std::string text) const {
    std::ranges::replace(text, ',', ' ');
    std::istringstream words(text);
    std::vector<double> counts;
    for (std::string word; words >> word;) {
      double value = 0;
      const auto end = word.data() + word.size();
      const auto [stop, error] = std::from_chars(word.data(), end, value);
      if (error != std::errc() || stop != end)
        refuse(fmt::format("count {} is \"{}\", no number. Record it again", counts.size(),
                           word.substr(0, 40)));
      counts.push_back(value);
    }
    return counts;
  }

  Source source_;
  std::string path_;
};

// Far more than any layer's, and than those of a model.
constexpr Recording::Source kRouting{
    "plan: routing", 1 << 20,
    "is no file and none of balanced, zipf, zipf-spread, hot. Name one of them or a recording",
    false};
constexpr Recording::Source kPlacement{
    "plan: placement", 2 << 20, "is no file. Name a recording, or - for standard input", true};
constexpr Recording::Source kPlan{
    "run: placement", 16 << 20, "is no file. Name what `switchyard plan --placement --json` prints",
    false};
constexpr Recording::Source kCurrent{"plan: current", kPlan.most_bytes, kPlan.none, false};

}  // namespace

int64_t Routing::active_experts() const {
  return static_cast<int64_t>(std::set<int32_t>(ids.begin(), ids.end()).size());
}

Routing make_routing(const std::string& kind, int64_t num_tokens, int64_t num_experts,
                     int64_t top_k, uint64_t seed) {
  const auto bias = bias_of(kind, num_experts);
  std::mt19937_64 rng(seed);
  std::extreme_value_distribution<double> gumbel;
  std::vector<double> key(bias.size());
  std::vector<int32_t> order(bias.size());
  Routing routing;
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (size_t e = 0; e < key.size(); ++e) key[e] = bias[e] + gumbel(rng);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [&](int32_t a, int32_t b) { return key[a] > key[b]; });
    for (int64_t k = 0; k < top_k; ++k) {
      const int32_t chosen = order[k];
      const auto in_turn = static_cast<int32_t>((t * top_k + k) % num_experts);
      routing.ids.push_back(kind == "balanced" ? in_turn : chosen);
      routing.weights.push_back(static_cast<float>(key[chosen]));
    }
    // Keys of popular experts are not on the scale of logits: the hot one would take it all.
    float* weights = routing.weights.data() + t * top_k;
    for (int64_t k = 0; k < top_k; ++k) weights[k] = std::min(weights[k], 10.0f);
    softmax(weights, top_k);
  }
  return routing;
}

std::vector<double> expert_counts(const std::string& routing, const MoeConfig& config) {
  if (routing == "balanced") return {};
  if (routing == "zipf") return zipf(config);
  if (routing == "zipf-spread") return spread(zipf(config));
  if (routing == "hot") return hot(config);
  const Recording recording(kRouting, routing);
  auto counts = recording.counts();
  if (counts.size() != static_cast<size_t>(config.num_experts))
    recording.refuse(fmt::format("holds {} counts, the layer has E={} experts. Record this layer",
                                 counts.size(), config.num_experts));
  return counts;
}

std::vector<int32_t> slots_of_plan(const std::string& path, int64_t layer) {
  const Recording plan(kPlan, path);
  const auto layers = plan.slots();
  const auto count = static_cast<int64_t>(layers.size());
  if (layer < 0 && count != 1)
    plan.refuse(fmt::format("holds {} layers. Say --placement-layer", count));
  if (layer >= count)
    plan.refuse(
        fmt::format("holds {} layers, --placement-layer={}. Count them from 0", count, layer));
  return layers[static_cast<size_t>(std::max<int64_t>(layer, 0))];
}

std::vector<std::vector<int32_t>> slots_of_layers(const std::string& path) {
  return Recording(kCurrent, path).slots();
}

std::vector<std::vector<double>> layer_loads(const std::string& path) {
  return Recording(kPlacement, path).layers();
}

}  // namespace switchyard::cli
