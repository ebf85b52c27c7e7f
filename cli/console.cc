// cli/console.cc
#include "commands.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace switchyard::cli {

std::string Table::text() const {
  auto rows = rows_;
  std::vector<size_t> width(rows.front().size(), 0);
  std::vector<bool> left(width.size(), false);
  for (size_t c = 0; c < width.size(); ++c)
    if (rows.front()[c].starts_with('<')) left[c] = true, rows.front()[c].erase(0, 1);
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c)
      line += (c ? "  " : "") + (left[c] ? fmt::format("{:<{}}", row[c], width[c])
                                         : fmt::format("{:>{}}", row[c], width[c]));
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string bar_chart(const std::vector<int64_t>& counts, const std::string& label,
                      size_t max_lines) {
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  const int64_t most = std::max<int64_t>(1, counts.empty() ? 1 : counts[order[0]]);
  constexpr int64_t kBarWidth = 48;  // fits 80 columns with label and number
  std::string text;
  const size_t shown = std::min(max_lines, order.size());
  for (size_t i = 0; i < shown; ++i) {
    const int64_t n = counts[order[i]];
    const auto bar = static_cast<size_t>((n * kBarWidth + most - 1) / most);
    text += fmt::format("  {} {:>4}  {:<{}} {:>6}\n", label, order[i], std::string(bar, '#'),
                        kBarWidth, n);
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
    std::fputs(fmt::format("\r{}: {:>3} %", what, percent).c_str(), stderr);
    if (done >= total) std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
  };
}

std::string human_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

}  // namespace switchyard::cli
