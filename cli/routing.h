// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/routing.h -- which experts tokens choose, and how often: made up by name, or recorded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "switchyard/config.h"

namespace switchyard::cli {

// Of a benchmark.
struct Routing {
  std::vector<int32_t> ids;    // [T, K], distinct within a token
  std::vector<float> weights;  // [T, K], a softmax over the K chosen

  int64_t active_experts() const;
};

// "random": top-k of random logits; "zipf": expert e is 1 / (e + 1) as popular; "hot": one expert
// is in every token, the rest random; "balanced": every expert as often as any other. Throws
// UsageError for another name.
Routing make_routing(const std::string& kind, int64_t num_tokens, int64_t num_experts,
                     int64_t top_k, uint64_t seed);

// How often each expert of a layer is chosen, for a plan.
// "balanced": all alike. "zipf": the odds of expert e are as 1 / (e + 1), so the popular ones are
// together on the first rank. "zipf-spread": the same experts, spread over the ranks. "hot": one
// expert is in every token. Any other word is a file with a count for each expert: the JSON object
// of `switchyard run --json`, a JSON array, or numbers between blanks or commas. Throws
// Error(BadFile).
std::vector<double> expert_counts(const std::string& routing, const MoeConfig& config);

// The loads of each layer's experts, for a placement: [L][E], L and E from 1 on. The file, or stdin
// for "-", holds an array for each layer in one array, objects of `switchyard run --json` in an array
// or one a line, or a single layer as above. Throws Error(BadFile).
std::vector<std::vector<double>> layer_loads(const std::string& path);

// The expert in each weight slot, from what `switchyard plan --placement --json` prints: of the
// layer-th of its layers, or, for -1, of the only one. Throws Error(BadFile).
std::vector<int32_t> slots_of_plan(const std::string& path, int64_t layer);
// Of each layer.
std::vector<std::vector<int32_t>> slots_of_layers(const std::string& path);

}  // namespace switchyard::cli
