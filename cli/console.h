// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/console.h -- what a person sees: aligned tables, bars, colours, progress; and JSON. Text fits
// the terminal, where there is one.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace switchyard::cli {

// Columns of the terminal behind stdout; without one, more than any line has.
size_t console_width();

// To stdout; lines longer than the terminal's go on below, under their last column.
void print(std::string_view text);
template <class... Values>
void say(fmt::format_string<Values...> text, Values&&... values) {
  print(fmt::format(text, std::forward<Values>(values)...));
}

// One object on one line. Text that is no UTF-8, as paths may be, has U+FFFD in its place.
void say_json(const nlohmann::json& json);

// In colour on a terminal that has it (https://no-color.org), else as it is.
enum class Mood { Good, Bad };
std::string painted(Mood mood, std::string_view text, FILE* stream = stdout);

// Columns as wide as their widest cell. Numbers are aligned right; a header that begins with '<'
// (which is not shown) makes a column of words, aligned left. A table that is wider than the
// terminal goes on below in further columns, the first one repeated.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { add(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "expert  7  ############  61", the busiest first; one line says what is not shown.
std::string bar_chart(const std::vector<int64_t>& counts, const std::string& label,
                      size_t max_lines);

// Rewrites one line on stderr, on a terminal only. Call with done == total to end it.
std::function<void(int64_t done, int64_t total)> progress_on_terminal(std::string what);

// The same where nothing can be counted: "what ..." while it lives.
class Waiting {
 public:
  explicit Waiting(std::string_view what);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
};

// "1.86 GiB", "12.6 MB" style sizes for people.
std::string human_bytes(double bytes);

}  // namespace switchyard::cli
