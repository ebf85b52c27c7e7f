// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/soak/flat.h -- what is sampled while a soak runs, and the rule that says whether it is flat.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace switchyard::soak {

// Between two rounds, when nothing runs but what lives as long as the program.
struct Sample {
  int64_t seconds = 0, rounds = 0;
  int64_t rss_kib = 0;   // resident, once the allocator has given back what it can
  int64_t heap_kib = 0;  // allocated and not freed
  int64_t descriptors = 0, threads = 0, files = 0;
};

struct Quantity {
  const char* name;
  int64_t Sample::*value;
  int64_t slack;  // of the second half's largest above the first half's
};
// An allocator has an arena per thread that once had to wait, and holes in each, so pages come and go by
// some MiB; what is allocated at the end of a round differs by what the C library keeps for a thread.
inline constexpr Quantity kQuantities[] = {{"RSS KiB", &Sample::rss_kib, 8192},
                                           {"heap KiB", &Sample::heap_kib, 64},
                                           {"descriptors", &Sample::descriptors, 0},
                                           {"threads", &Sample::threads, 0},
                                           {"files", &Sample::files, 0}};

struct Verdict {
  int64_t first = 0, second = 0;  // the largest of each half
  bool flat = false;
};

// The first half has the warm-up. Too few samples are not flat: nothing was seen.
inline Verdict judge(const std::vector<Sample>& samples, const Quantity& quantity) {
  constexpr size_t kLeast = 4;
  if (samples.size() < kLeast) return {};
  const auto largest = [&](auto begin, auto end) {
    int64_t most = 0;
    for (auto s = begin; s != end; ++s) most = std::max(most, (*s).*quantity.value);
    return most;
  };
  const auto half = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  const int64_t first = largest(samples.begin(), half), second = largest(half, samples.end());
  return {first, second, second <= first + quantity.slack};
}

}  // namespace switchyard::soak
