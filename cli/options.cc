// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/options.cc
#include "options.h"

#include <algorithm>
#include <numeric>

namespace switchyard::cli {
namespace {

// How many characters have to be inserted, left out or changed.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j)
      diagonal = std::exchange(row[j + 1],
                               std::min({diagonal + (a[i] != b[j]), row[j] + 1, row[j + 1] + 1}));
  }
  return row.back();
}

}  // namespace

CLI::Option* add_numbers(CLI::App& app, const char* names, std::vector<int64_t>& values,
                         Range<int64_t> range, const char* type, const char* help) {
  const auto read = [&values, range, option = first_name(names)](const std::string& text) {
    values.clear();
    for (const auto& part : CLI::detail::split(text, ','))
      values.push_back(number_in<int64_t>(option, part, range));
  };
  return app.add_option_function<std::string>(names, read, help)->type_name(type);
}

CLI::Option* add_choice(CLI::App& app, const char* names, std::string& value,
                        std::vector<std::string> choices, const char* help) {
  const auto type = fmt::format("{}", fmt::join(choices, "|"));
  const auto read = [&value, choices = std::move(choices),
                     option = first_name(names)](const std::string& text) {
    require_usage(std::ranges::count(choices, text) > 0, "{}={}, need {}", option, text,
                  fmt::join(choices, " or "));
    value = text;
  };
  return app.add_option_function<std::string>(names, read, help)
      ->type_name(type)
      ->default_str(value);
}

bool is_given(const CLI::App& command, const char* option) {
  return command.get_option(option)->count() > 0;
}

void refuse_unused(const CLI::App& command, std::initializer_list<const char*> options,
                   const std::string& is_for) {
  for (const char* name : options) {
    const CLI::Option* option = command.get_option_no_throw(name);
    if (option == nullptr || option->count() == 0) continue;
    const bool is_flag = option->get_items_expected_max() == 0;
    throw UsageError(fmt::format("{}{}, is for {}. Leave it out", name,
                                 is_flag ? "" : "=" + option->results().front(), is_for));
  }
}

std::string suggestion(std::string_view word, const std::vector<std::string>& names) {
  const auto distance = [&](const std::string& name) { return edit_distance(word, name); };
  const auto nearest = std::ranges::min_element(names, {}, distance);
  const bool is_near = nearest != names.end() && distance(*nearest) <= 1 + word.size() / 3;
  return is_near ? fmt::format(". Did you mean {}?", *nearest) : "";
}

}  // namespace switchyard::cli
