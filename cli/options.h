// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/options.h -- options that refuse by name what they cannot be, and what goes unused.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "commands.h"

namespace switchyard::cli {

inline constexpr int kMostRanks = 1 << 20;     // that are foreseen
inline constexpr int kMostThreadRanks = 1024;  // that are run, each with a thread
inline constexpr int64_t kMostTokens = INT32_MAX;

// What an option's number may be, both included.
template <class T>
struct Range {
  T low, high;
};

// The number that all of `text` spells. Throws UsageError that names the option.
template <class T>
T number_in(const std::string& option, std::string_view text, Range<T> range) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  // Written so that NaN is in no range.
  const bool good =
      error == std::errc() && stop == end && value >= range.low && value <= range.high;
  require_usage(good, "{}={}, need {} to {}", option, text, range.low, range.high);
  return value;
}

// "--tokens" of "--tokens,--max-tokens".
inline std::string first_name(std::string_view names) {
  return std::string(names.substr(0, names.find(',')));
}

// An option with a number; `type` is what its help calls it. Its default is shown, or what is set
// with default_str.
template <class T>
CLI::Option* add_number(CLI::App& app, const char* names, T& value,
                        Range<std::type_identity_t<T>> range, const char* type, const char* help) {
  const auto read = [&value, range, option = first_name(names)](const std::string& text) {
    value = number_in<T>(option, text, range);
  };
  return app.add_option_function<std::string>(names, read, help)
      ->type_name(type)
      ->default_str(fmt::format("{}", value));
}

// A list between commas.
CLI::Option* add_numbers(CLI::App& app, const char* names, std::vector<int64_t>& values,
                         Range<int64_t> range, const char* type, const char* help);

// An option that is one of a few words.
CLI::Option* add_choice(CLI::App& app, const char* names, std::string& value,
                        std::vector<std::string> choices, const char* help);

bool is_given(const CLI::App& command, const char* option);
// Throws UsageError where one of these was given, on the command line or by its environment
// variable: "--batch=8, is for --linear-attention. Leave it out".
void refuse_unused(const CLI::App& command, std::initializer_list<const char*> options,
                   const std::string& is_for);

// ". Did you mean X?" where one of `names` is near to `word`; otherwise empty.
std::string suggestion(std::string_view word, const std::vector<std::string>& names);

}  // namespace switchyard::cli
