// cli/commands.h -- the subcommands. Each registers its options; the returned function runs it and
// gives the exit code. Errors leave as exceptions; main.cc turns them into one line and a code.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace switchyard::cli {

inline constexpr int kGood = 0, kFailed = 1, kBadInput = 2;

// Wrong usage that CLI11 cannot see: exit 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Values>
void require_usage(bool good, fmt::format_string<Values...> text, Values&&... values) {
  if (!good) throw UsageError(fmt::format(text, std::forward<Values>(values)...));
}

// What the user gave is wrong: 2. What was asked for went wrong: 1.
int exit_code(const std::exception& e);

// An option with a value; `type` is what its help calls the value.
template <class T>
CLI::Option* add_value(CLI::App& app, const char* names, T& value, const char* type,
                       const char* help) {
  return app.add_option(names, value, help)->type_name(type);
}

// An option that must not be negative.
template <class T>
void add_count(CLI::App& app, const char* name, T& value, const char* help) {
  app.add_option(name, value, help)->check(CLI::NonNegativeNumber);
}

using Command = std::function<int()>;
Command add_run(CLI::App& app);
Command add_models(CLI::App& app);
Command add_explain(CLI::App& app);
Command add_check(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_plan(CLI::App& app);

// ---- console.cc: what a person sees: aligned tables, bars, progress on a terminal

// Columns as wide as their widest cell. Numbers are aligned right; a header that begins with '<'
// (which is not shown) makes a column of words, aligned left.
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

// "1.86 GiB", "12.6 MB" style sizes for people.
std::string human_bytes(double bytes);

}  // namespace switchyard::cli
