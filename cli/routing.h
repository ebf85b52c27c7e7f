// cli/routing.h -- made-up routing for benchmarks: which experts, and how they weigh.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace switchyard::cli {

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

}  // namespace switchyard::cli
