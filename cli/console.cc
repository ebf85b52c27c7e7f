// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/console.cc
#include "console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

namespace switchyard::cli {
namespace {

size_t width_of(int fd) {
  winsize size{};
  const bool known = isatty(fd) && ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : std::numeric_limits<size_t>::max();
}

bool has_colour(FILE* stream) {
  const char* off = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return isatty(fileno(stream)) && (off == nullptr || *off == '\0') && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

// Colours take no columns, nor do the later bytes of a character.
size_t columns_of(std::string_view text) {
  size_t columns = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b')
      i = std::min(text.find('m', i), text.size() - 1);
    else
      columns += (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
  }
  return columns;
}

// Where a line goes on: under what stands behind the first gap, else under its first word.
size_t hanging_indent(std::string_view line, size_t width) {
  const size_t first = std::min(line.find_first_not_of(' '), line.size());
  const size_t gap = line.find("  ", first);
  const size_t behind = gap == line.npos ? line.npos : line.find_first_not_of(' ', gap);
  return behind != line.npos && behind <= width / 2 ? behind : std::min(first, width / 2);
}

std::string wrapped(std::string_view line, size_t width) {
  if (columns_of(line) <= width) return std::string(line);
  const size_t indent = hanging_indent(line, width);
  std::string text(line.substr(0, indent));
  line.remove_prefix(indent);
  for (size_t column = indent; !line.empty();) {
    const size_t gap = std::min(line.find_first_not_of(' '), line.size());
    const size_t end = std::min(line.find(' ', gap), line.size());
    const size_t columns = columns_of(line.substr(0, end));
    const bool fits = column + columns <= width || column == indent;
    if (!fits) text += "\n" + std::string(indent, ' '), column = indent;
    text += line.substr(fits ? 0 : gap, fits ? end : end - gap);
    column += fits ? columns : columns - gap;
    line.remove_prefix(end);
  }
  return text;
}

// A line on stderr that the next one takes the place of. Longer than the terminal it would stay.
void rewrite_line(std::string_view text) {
  const auto shown = text.substr(0, width_of(STDERR_FILENO) - 1);
  std::fputs(fmt::format("\r{}\x1b[K", shown).c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace

size_t console_width() {
  return width_of(STDOUT_FILENO);
}

void print(std::string_view text) {
  const size_t width = console_width();
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    fmt::print("{}{}", wrapped(text.substr(0, end), width), end < text.size() ? "\n" : "");
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void say_json(const nlohmann::json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::string painted(Mood mood, std::string_view text, FILE* stream) {
  if (!has_colour(stream)) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", mood == Mood::Good ? 32 : 31, text);
}

std::string Table::text() const {
  auto rows = rows_;
  std::vector<size_t> width(rows.front().size(), 0);
  std::vector<bool> left(width.size(), false);
  for (size_t c = 0; c < width.size(); ++c)
    if (rows.front()[c].starts_with('<')) left[c] = true, rows.front()[c].erase(0, 1);
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  const auto cell = [&](const std::vector<std::string>& row, size_t c) {
    return left[c] ? fmt::format("{:<{}}", row[c], width[c])
                   : fmt::format("{:>{}}", row[c], width[c]);
  };
  std::string text;
  for (size_t begin = 1, end = 1; begin < width.size() || end == 1; begin = end) {
    // As many columns as fit, one at least.
    size_t columns = width[0];
    for (; end < width.size(); ++end) {
      columns += 2 + width[end];
      if (columns > console_width() && end > begin) break;
    }
    if (begin > 1) text += "\n";
    for (const auto& row : rows) {
      std::string line = cell(row, 0);
      for (size_t c = begin; c < end; ++c) line += "  " + cell(row, c);
      line.erase(line.find_last_not_of(' ') + 1);
      text += line + "\n";
    }
    if (end == 1) break;  // a single column
  }
  return text;
}

std::string bar_chart(const std::vector<int64_t>& counts, const std::string& label,
                      size_t max_lines) {
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  const int64_t most = std::max<int64_t>(1, counts.empty() ? 1 : counts[order[0]]);
  // With label and number, in 80 columns at most.
  const size_t others = label.size() + 16;
  const auto bar_width =
      static_cast<int64_t>(std::clamp<size_t>(std::max(console_width(), others) - others, 8, 48));
  std::string text;
  const size_t shown = std::min(max_lines, order.size());
  for (size_t i = 0; i < shown; ++i) {
    const int64_t n = counts[order[i]];
    const auto bar = static_cast<size_t>((n * bar_width + most - 1) / most);
    text += fmt::format("  {} {:>4}  {:<{}} {:>6}\n", label, order[i], std::string(bar, '#'),
                        bar_width, n);
  }
  const auto idle = std::ranges::count(counts, 0);
  if (shown < order.size())
    text += fmt::format("  ... {} more, the least busy with {}; {} idle\n", order.size() - shown,
                        counts[order.back()], idle);
  return text;
}

std::function<void(int64_t, int64_t)> progress_on_terminal(std::string what) {
  if (!isatty(STDERR_FILENO)) return {};
  return [what = std::move(what), last = int64_t{-1}](int64_t done, int64_t total) mutable {
    const int64_t percent = total > 0 ? done * 100 / total : 100;
    if (percent == last) return;
    last = percent;
    rewrite_line(done < total ? fmt::format("{}: {:>3} %", what, percent) : "");
  };
}

Waiting::Waiting(std::string_view what) {
  if (isatty(STDERR_FILENO)) rewrite_line(fmt::format("{} ...", what));
}

Waiting::~Waiting() {
  if (isatty(STDERR_FILENO)) rewrite_line("");
}

std::string human_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

}  // namespace switchyard::cli
