// cli/expert_counts.h -- how often each expert of a layer is chosen: made up by name, or recorded.
#pragma once

#include <string>
#include <vector>

#include "switchyard/config.h"

namespace switchyard::cli {

// "balanced": all alike. "zipf": the odds of expert e are as 1 / (e + 1), so the popular ones stand
// together on the first rank. "zipf-spread": the same experts, spread over the ranks. "hot": one
// expert is in every token. Any other word is a file with a count for each expert: the JSON object
// of `switchyard run --json`, a JSON array, or numbers between blanks or commas. Throws
// Error(BadFile).
std::vector<double> expert_counts(const std::string& routing, const MoeConfig& config);

}  // namespace switchyard::cli
