// cli/rank_numbers.h -- the numbers of ranks that a plan is asked for.
#pragma once

#include <string>
#include <vector>

namespace switchyard::cli {

// "8", "8,16,24", and "8..256": the powers of two in between, both ends included. Rising, each
// once. Throws UsageError.
std::vector<int> rank_numbers(const std::string& text);

}  // namespace switchyard::cli
