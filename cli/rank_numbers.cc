// cli/rank_numbers.cc
#include "rank_numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <set>
#include <string_view>

#include "commands.h"

namespace switchyard::cli {
namespace {

constexpr int kMostRanks = 1 << 20;

[[noreturn]] void refuse(const std::string& text) {
  throw UsageError(
      fmt::format("--ranks={}, need numbers from 1 to {}: 8, 8,16,32 or 8..256", text, kMostRanks));
}

int number(std::string_view word, const std::string& text) {
  int value = 0;
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || stop != word.data() + word.size() || value < 1 || value > kMostRanks)
    refuse(text);
  return value;
}

void add_powers_of_two(std::set<int>& numbers, int low, int high) {
  for (int p = 1; p <= high; p *= 2)
    if (p >= low) numbers.insert(p);
}

}  // namespace

std::vector<int> rank_numbers(const std::string& text) {
  std::set<int> numbers;
  std::string_view rest = text;
  for (bool more = true; more;) {
    const size_t comma = rest.find(',');
    const std::string_view word = rest.substr(0, comma);
    more = comma != std::string_view::npos;
    if (more) rest.remove_prefix(comma + 1);
    const size_t dots = word.find("..");
    if (dots == std::string_view::npos)
      numbers.insert(number(word, text));
    else
      add_powers_of_two(numbers, number(word.substr(0, dots), text),
                        number(word.substr(dots + 2), text));
  }
  if (numbers.empty()) refuse(text);
  return {numbers.begin(), numbers.end()};
}

}  // namespace switchyard::cli
