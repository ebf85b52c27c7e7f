// cli/console.h -- what a person sees: aligned tables, bars, progress on a terminal.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace switchyard::cli {

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
