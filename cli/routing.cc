// cli/routing.cc
#include "routing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "commands.h"

namespace switchyard::cli {
namespace {

// log popularity of each expert; the top-k of it plus Gumbel noise are the choice.
std::vector<double> bias_of(const std::string& kind, int64_t num_experts) {
  std::vector<double> bias(static_cast<size_t>(num_experts), 0.0);
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
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(), [&](int32_t a, int32_t b) {
      return key[static_cast<size_t>(a)] > key[static_cast<size_t>(b)];
    });
    for (int64_t k = 0; k < top_k; ++k) {
      const int32_t chosen = order[static_cast<size_t>(k)];
      const auto in_turn = static_cast<int32_t>((t * top_k + k) % num_experts);
      routing.ids.push_back(kind == "balanced" ? in_turn : chosen);
      routing.weights.push_back(static_cast<float>(key[static_cast<size_t>(chosen)]));
    }
    // Keys of popular experts are not on the scale of logits: the hot one would take it all.
    float* weights = routing.weights.data() + t * top_k;
    for (int64_t k = 0; k < top_k; ++k) weights[k] = std::min(weights[k], 10.0f);
    softmax(weights, top_k);
  }
  return routing;
}

}  // namespace switchyard::cli
