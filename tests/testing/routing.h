// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/routing.h -- expert ids for tests: every skew a gate can produce, and some it
// cannot.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "switchyard/config.h"
#include "testing/buffer.h"

namespace switchyard::testing {

enum class Skew { Balanced, Zipf, OneHot, SameExperts, FirstHalfOnly, NoExpert, SomeMissing };

inline const char* skew_name(Skew skew) {
  switch (skew) {
    case Skew::Balanced: return "Balanced";
    case Skew::Zipf: return "Zipf";
    case Skew::OneHot: return "OneHot";
    case Skew::SameExperts: return "SameExperts";
    case Skew::FirstHalfOnly: return "FirstHalfOnly";
    case Skew::NoExpert: return "NoExpert";
    case Skew::SomeMissing: return "SomeMissing";
  }
  return "";
}

inline double popularity(Skew skew, int64_t expert, int64_t num_experts) {
  switch (skew) {
    case Skew::Zipf: return 1.0 / static_cast<double>(expert + 1);
    case Skew::OneHot: return expert == num_experts / 2 ? 1e6 : 1.0;  // in every token
    case Skew::SameExperts: return std::exp2(-40.0 * static_cast<double>(expert));
    case Skew::FirstHalfOnly:
      return expert < (num_experts + 1) / 2 ? 1.0 : 0.0;  // idle experts, idle ranks
    default: return 1.0;
  }
}

// Distinct ids per token: the K largest of popularity * exponential noise.
inline Buffer<int32_t> random_ids(int64_t num_tokens, int64_t num_experts, int64_t top_k, Skew skew,
                                  uint64_t seed) {
  Buffer<int32_t> ids({num_tokens, top_k});
  std::mt19937_64 rng(seed);
  std::exponential_distribution<double> noise(1.0);
  std::vector<double> key(static_cast<size_t>(num_experts));
  std::vector<int32_t> order(static_cast<size_t>(num_experts));
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t e = 0; e < num_experts; ++e)
      key[static_cast<size_t>(e)] = noise(rng) / std::max(popularity(skew, e, num_experts), 1e-300);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return key[static_cast<size_t>(a)] < key[static_cast<size_t>(b)];
    });
    for (int64_t k = 0; k < top_k; ++k) {
      const bool missing = skew == Skew::NoExpert ||
                           (skew == Skew::SomeMissing && rng() % 4 == 0) ||
                           (skew == Skew::FirstHalfOnly && k >= (num_experts + 1) / 2);
      ids[t * top_k + k] = missing ? -1 : order[static_cast<size_t>(k)];
    }
  }
  return ids;
}

// Slots of `num_rows` rows with distinct places in a buffer of `places`; about one in four has none.
inline Buffer<int32_t> random_places(int64_t num_rows, int64_t top_k, int64_t places,
                                     uint64_t seed) {
  Buffer<int32_t> row_of_slot({num_rows, top_k});
  std::vector<int32_t> order(static_cast<size_t>(places));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 rng(seed);
  std::shuffle(order.begin(), order.end(), rng);
  for (int64_t s = 0; s < row_of_slot.count(); ++s)
    row_of_slot[s] = rng() % 4 == 0 ? -1 : order[static_cast<size_t>(s)];
  return row_of_slot;
}

// What a dispatcher needs to know of a layer.
inline MoeConfig dispatch_config(int64_t hidden, int64_t num_experts, int64_t top_k) {
  MoeConfig c;
  c.hidden = hidden;
  c.intermediate = 8;
  c.num_experts = num_experts;
  c.top_k = top_k;
  return c;
}

}  // namespace switchyard::testing
