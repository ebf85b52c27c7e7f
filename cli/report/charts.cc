// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/charts.cc
#include "report/charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <tuple>

namespace switchyard::cli {
namespace {

// A page of at most 300 KB holds no more of a kind.
constexpr size_t kMostCharts = 24, kMostSeries = kNumSeries, kMostBars = 16;
constexpr double kWidth = 340;

// ---- names

// "NVIDIA H100 80GB HBM3" is nvidia-h100-80gb-hbm3.
std::string slug(std::string_view name) {
  std::string file;
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.';
    const bool capital = c >= 'A' && c <= 'Z';
    if (letter || capital)
      file += capital ? static_cast<char>(c - 'A' + 'a') : c;
    else if (!file.empty() && file.back() != '-')
      file += '-';
  }
  file.resize(std::min<size_t>(file.size(), 60));
  while (file.ends_with('-') || file.ends_with('.')) file.pop_back();
  return file.empty() ? "unnamed" : file;
}

// At most kMostCharts, with file names that differ.
void finish(std::vector<Chart>& charts) {
  if (charts.size() > kMostCharts) charts.erase(charts.begin() + kMostCharts, charts.end());
  std::map<std::string, int> seen;
  for (Chart& chart : charts)
    if (const int count = ++seen[chart.file]; count > 1) chart.file += fmt::format("-{}", count);
}

std::string of_ranks(const BenchRun& run) {
  return run.ranks > 1 ? fmt::format(", {} ranks", run.ranks) : "";
}

std::string title_of(const BenchRun& run) {
  return shortened(run.name, 34) + of_ranks(run);
}

// What two runs have in common that may be compared over time.
using Key = std::tuple<std::string, int64_t, int64_t, std::string, std::string>;
Key key_of(const BenchRun& run) {
  return {run.device, run.ranks, run.threads, run.name, run.routing};
}

bool has_layers_alone(const BenchRun& run) {
  return run.is_plain() && run.ranks == 1 && !run.is_linear_attention();
}

// ---- what pictures share

struct Series {
  std::string name;
  int number;
};

// Rows of a legend, as wide as fits.
std::vector<std::vector<Series>> legend_rows(const std::vector<Series>& series, double width) {
  std::vector<std::vector<Series>> rows;
  double used = width;
  for (const Series& s : series) {
    const double needed = 26 + text_width(s.name);
    if (used + needed > width) rows.emplace_back(), used = 0;
    rows.back().push_back(s);
    used += needed;
  }
  return rows;
}

double legend_height(const std::vector<Series>& series, double width) {
  return 18.0 * static_cast<double>(legend_rows(series, width).size());
}

void draw_legend(Svg& svg, const std::vector<Series>& series, Point at, double width) {
  for (const auto& row : legend_rows(series, width)) {
    double x = at.x;
    for (const Series& s : row) {
      svg.marker({x + 5, at.y - 4}, s.number);
      svg.text({x + 15, at.y}, s.name);
      x += 26 + text_width(s.name);
    }
    at.y += 18;
  }
}

std::string tick_text(double value) {
  if (value >= 1e6 || (value != 0 && value < 1e-3)) return fmt::format("{:.0e}", value);
  return fmt::format("{:g}", value);
}

// The lines of a grid with their values, on the left and below.
struct Axes {
  Svg& svg;
  Scale x, y;

  void rows(int wanted) const {
    for (const double value : y.ticks(wanted)) {
      svg.line({x.from, y(value)}, {x.to, y(value)}, "grid");
      svg.text({x.from - 6, y(value) + 4}, tick_text(value), "m", Anchor::End);
    }
  }
  // From the right: the last one is named, and those that do not touch their neighbour.
  void columns(const std::vector<double>& values) const {
    double next = 1e9;
    for (size_t i = values.size(); i-- > 0;) {
      const std::string text = tick_text(values[i]);
      const double at = x(values[i]), half = text_width(text, 11) / 2;
      svg.line({at, y.from}, {at, y.to}, "grid");
      if (at + half > next - 4) continue;
      svg.text({at, y.from + 15}, text, "m", Anchor::Middle);
      next = at - half;
    }
  }
  void frame() const { svg.line({x.from, y.from}, {x.to, y.from}, "axis"); }
};

// Least and greatest of positive values.
struct Extent {
  double least = std::numeric_limits<double>::infinity(), most = 0;

  void add(double value) {
    if (value <= 0) return;
    least = std::min(least, value), most = std::max(most, value);
  }
  bool empty() const { return most == 0; }
  bool is_wide() const { return most / least > 20; }
};

struct Dot {
  double x, value;
  std::string tip;
};

struct Curve {
  Series series;
  std::vector<Dot> dots;
};

std::vector<Point> points_of(const Curve& curve, const Scale& x, const Scale& y) {
  std::vector<Point> points;
  points.reserve(curve.dots.size());
  for (const Dot& dot : curve.dots) points.push_back({x(dot.x), y(dot.value)});
  return points;
}

void draw_curve(Svg& svg, const Curve& curve, const Scale& x, const Scale& y, bool dashed = false) {
  const auto points = points_of(curve, x, y);
  svg.path(points, curve.series.number, dashed);
  for (size_t i = 0; i < points.size(); ++i)
    svg.marker(points[i], curve.series.number, curve.dots[i].tip);
}

std::vector<Series> series_of(const std::vector<Curve>& curves) {
  std::vector<Series> all;
  all.reserve(curves.size());
  for (const Curve& curve : curves) all.push_back(curve.series);
  return all;
}

// On top of bars, with an edge that parts it from them.
void draw_floor(Svg& svg, double x, double top, double height) {
  svg.line({x, top}, {x, top + height}, "halo");
  svg.line({x, top}, {x, top + height}, "floor");
}

// ---- ratio to the floor

struct Band {
  std::vector<Dot> low, high;
};

std::vector<Curve> ratio_curves(const Results& results, const BenchRun& run, Band& band) {
  std::vector<Curve> curves(1, {{"Switchyard", 0}, {}});
  for (const int64_t tokens : run.tokens()) {
    const BenchRow* row = run.fastest_layer(tokens);
    if (tokens < 1 || !row || row->of_floor() == 0) continue;
    const auto x = static_cast<double>(tokens);
    curves[0].dots.push_back(
        {x, row->of_floor(),
         fmt::format("Switchyard, {} tokens: {} us, {:.2f} of the floor, {}", tokens,
                     number(row->us), row->of_floor(), shortened(row->strategy, 40))});
    if (row->us_min <= 0 || row->us_max <= 0) continue;
    band.low.push_back({x, row->us_min / row->floor_us, ""});
    band.high.push_back({x, row->us_max / row->floor_us, ""});
  }
  if (curves[0].dots.empty()) return {};
  for (size_t i = 0; i < results.peers.size() && curves.size() < kMostSeries; ++i) {
    const Peer& peer = results.peers[i];
    Curve curve{{shortened(peer.name, 24), static_cast<int>(i) + 1}, {}};
    for (const int64_t tokens : run.tokens())
      if (const Peer::Time* time = peer.find(run, tokens))
        curve.dots.push_back(
            {static_cast<double>(tokens), time->of_floor(),
             fmt::format("{}, {} tokens: {} us, {:.2f} of its floor", shortened(peer.name, 24),
                         tokens, number(time->us), time->of_floor())});
    if (!curve.dots.empty()) curves.push_back(std::move(curve));
  }
  return curves;
}

Chart ratio_chart(const BenchRun& run, const std::vector<Curve>& curves, const Band& band) {
  const auto series = series_of(curves);
  const double bottom = 182, legend = legend_height(series, kWidth - 44);
  Svg svg(fmt::format("{}: time over floor by tokens", run.name), kWidth, bottom + 52 + legend);
  Extent ratios, tokens;
  ratios.add(1);
  std::set<double> columns;
  for (const Curve& curve : curves)
    for (const Dot& dot : curve.dots) {
      ratios.add(dot.value), tokens.add(dot.x);
      columns.insert(dot.x);
    }
  const bool log = ratios.is_wide();
  const Axes axes{svg, scale_over(tokens.least, tokens.most, 44, kWidth - 12, true),
                  scale_over(ratios.least, ratios.most, bottom, 44, log)};
  svg.text({12, 18}, title_of(run), "h");
  svg.text({12, 35}, "time / floor", "m");
  axes.rows(5);
  axes.columns({columns.begin(), columns.end()});
  axes.frame();
  svg.line({axes.x.from, axes.y(1)}, {axes.x.to, axes.y(1)}, "floor");
  svg.text({kWidth - 12, bottom + 31}, run.ranks > 1 ? "tokens of a rank" : "tokens", "m",
           Anchor::End);
  // Runs that vary more than the picture is high stay inside it.
  Curve low{{}, band.low}, high{{}, band.high};
  for (Curve* edge : {&low, &high})
    for (Dot& dot : edge->dots) dot.value = std::clamp(dot.value, axes.y.low, axes.y.high);
  if (low.dots.size() > 1)
    svg.band(points_of(low, axes.x, axes.y), points_of(high, axes.x, axes.y), 0);
  for (size_t i = curves.size(); i-- > 0;) draw_curve(svg, curves[i], axes.x, axes.y, i > 0);
  draw_legend(svg, series, {44, bottom + 52}, kWidth - 44);
  return {"ratio-" + slug(run.name + of_ranks(run)), std::move(svg)};
}

// ---- roofline

struct Roofs {
  double tflops, read_gbps;
  double at(double intensity) const { return std::min(tflops, read_gbps * intensity * 1e-3); }
  double ridge() const { return tflops / read_gbps * 1e3; }
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The medians of what the runs measured.
Roofs roofs_of(const std::vector<const BenchRun*>& runs) {
  std::vector<double> tflops, reads;
  for (const BenchRun* run : runs) tflops.push_back(run->tflops), reads.push_back(run->read_gbps);
  return {median(std::move(tflops)), median(std::move(reads))};
}

std::vector<Curve> roofline_curves(const std::vector<const BenchRun*>& runs) {
  std::vector<Curve> curves;
  for (const BenchRun* run : runs) {
    Curve curve{{shortened(run->name, 24), static_cast<int>(curves.size()) % kNumSeries}, {}};
    for (const int64_t tokens : run->tokens()) {
      const BenchRow* row = run->fastest_layer(tokens);
      if (!row || row->flops <= 0 || row->bytes <= 0 || row->us < kLeastUs) continue;
      curve.dots.push_back(
          {row->flops / row->bytes, row->flops / row->us * 1e-6,
           fmt::format("{}, {} tokens: {} TFLOP/s, {} GB/s", shortened(run->name, 24), tokens,
                       number(row->flops / row->us * 1e-6), number(row->bytes / row->us * 1e-3))});
    }
    if (!curve.dots.empty() && curves.size() < 2 * kMostSeries) curves.push_back(std::move(curve));
  }
  return curves;
}

void draw_roofs(Svg& svg, const Roofs& roofs, const Scale& x, const Scale& y) {
  const double ridge = std::clamp(roofs.ridge(), x.low, x.high);
  const std::array corners = {Point{x(x.low), y(std::max(roofs.at(x.low), y.low))},
                              Point{x(ridge), y(roofs.at(ridge))},
                              Point{x(x.high), y(roofs.at(x.high))}};
  svg.line(corners[0], corners[1], "roof");
  svg.line(corners[1], corners[2], "roof");
  svg.text({x.to, corners[2].y - 7}, fmt::format("{} TFLOP/s", number(roofs.tflops)), "m",
           Anchor::End);
  // Left of the slope no point lies.
  const double at = std::pow(x.low, 0.25) * std::pow(ridge, 0.75);
  svg.text({x(at) - 10, y(std::max(roofs.at(at), y.low)) - 4},
           fmt::format("{} GB/s of reads", number(roofs.read_gbps)), "m", Anchor::End);
}

Chart roofline(const std::string& device, const std::vector<const BenchRun*>& runs,
               const std::vector<Curve>& curves) {
  constexpr double kWide = 400;
  const Roofs roofs = roofs_of(runs);
  const auto series = series_of(curves);
  const double bottom = 262, legend = legend_height(series, kWide - 48);
  Svg svg(fmt::format("{}: roofline", device), kWide, bottom + 52 + legend);
  Extent xs, ys;
  xs.add(roofs.ridge() * 2);
  for (const Curve& curve : curves)
    for (const Dot& dot : curve.dots) xs.add(dot.x), ys.add(dot.value);
  ys.add(roofs.tflops);
  ys.add(roofs.at(xs.least));
  const Axes axes{svg, scale_over(xs.least, xs.most, 48, kWide - 12, true),
                  scale_over(ys.least, ys.most, bottom, 44, true)};
  svg.text({12, 18}, shortened(device, 50), "h");
  svg.text({12, 35}, "TFLOP/s", "m");
  axes.rows(6);
  axes.columns(axes.x.ticks(8));
  axes.frame();
  svg.text({kWide - 12, bottom + 31}, "flops per byte", "m", Anchor::End);
  draw_roofs(svg, roofs, axes.x, axes.y);
  for (const Curve& curve : curves)
    for (const Dot& dot : curve.dots)
      svg.marker({axes.x(dot.x), axes.y(dot.value)}, curve.series.number, dot.tip);
  draw_legend(svg, series, {48, bottom + 52}, kWide - 48);
  return {"roofline-" + slug(device), std::move(svg)};
}

// ---- operations

Chart operation_chart(const BenchRun& run, const BenchRow& layer) {
  const auto rows = parts_of(run, layer);
  constexpr double kLeft = 124, kRight = 286, kStep = 19;
  const double top = 48, height = top + kStep * static_cast<double>(rows.size()) + 28;
  const std::string title = fmt::format("{}, {} tokens", title_of(run), layer.tokens);
  Svg svg(fmt::format("{}: operations and their floors, us", title), kWidth, height);
  svg.text({12, 18}, title, "h");
  svg.text({12, 35}, shortened(layer.strategy.empty() ? "us" : "us, " + layer.strategy, 52), "m");
  double most = kLeastUs;
  for (const BenchRow* row : rows) most = std::max({most, row->us, row->floor_us});
  double y = top;
  for (const BenchRow* row : rows) {
    const auto x = [&](double us) { return kLeft + us / most * (kRight - kLeft); };
    const std::string floor =
        row->floor_us > 0 ? fmt::format(", floor {} us", number(row->floor_us)) : "";
    svg.text({kLeft - 6, y + 12}, shortened(row->op, 19), "t", Anchor::End);
    svg.bar({kLeft, y + 2, std::max(x(row->us) - kLeft, 1.0), 13}, row->is_layer() ? 7 : 0,
            fmt::format("{}: {} us{}", row->op, number(row->us), floor));
    // Nearer to the axis it would hide the bar.
    if (row->floor_us > most * 0.01) draw_floor(svg, x(row->floor_us), y, 17);
    svg.text({std::max(x(row->us), x(row->floor_us)) + 6, y + 12}, number(row->us), "m");
    y += kStep;
  }
  svg.line({kLeft, top - 2}, {kLeft, y}, "axis");
  svg.line({kLeft + 3, y + 8}, {kLeft + 3, y + 20}, "floor");
  svg.text({kLeft + 10, y + 18}, "its floor", "m");
  return {"operations-" + slug(fmt::format("{}{}-{}", run.name, of_ranks(run), layer.tokens)),
          std::move(svg)};
}

// ---- ranks

constexpr std::array kParts = {"dispatch", "experts", "combine"};
constexpr std::array kPartSeries = {1, 0, 2};

// The parts of a layer over ranks at these tokens, as fast as its layer.
struct RankParts {
  const BenchRow* layer;
  std::array<const BenchRow*, 3> parts{};

  double sum() const {
    double us = 0;
    for (const BenchRow* part : parts) us += part ? part->us : 0;
    return us;
  }
};

std::vector<RankParts> rank_parts(const BenchRun& run) {
  std::vector<RankParts> all;
  for (const int64_t tokens : run.tokens()) {
    RankParts found{run.fastest_layer(tokens)};
    for (const BenchRow& row : run.rows)
      for (size_t i = 0; found.layer && i < kParts.size(); ++i)
        if (row.op == kParts[i] && row.tokens == tokens && !row.eager &&
            row.strategy == found.layer->strategy)
          found.parts[i] = &row;
    if (found.sum() > 0) all.push_back(found);
  }
  if (all.size() > kMostBars) all.resize(kMostBars);
  return all;
}

Chart rank_chart(const BenchRun& run, const std::vector<RankParts>& rows) {
  constexpr double kLeft = 60, kRight = 272, kStep = 22;
  std::vector<Series> series;
  for (size_t i = 0; i < kParts.size(); ++i) series.push_back({kParts[i], kPartSeries[i]});
  const double top = 48, height = top + kStep * static_cast<double>(rows.size()) + 30;
  Svg svg(fmt::format("{}: shares of dispatch, experts and combine", title_of(run)), kWidth,
          height);
  svg.text({12, 18}, title_of(run), "h");
  svg.text({12, 35}, "tokens of a rank", "m");
  svg.text({kWidth - 12, 35}, "layer, us", "m", Anchor::End);
  double y = top;
  for (const RankParts& row : rows) {
    const double whole = std::max(row.sum(), row.layer->us);
    double x = kLeft;
    svg.text({kLeft - 8, y + 13}, fmt::format("{}", row.layer->tokens), "t", Anchor::End);
    for (size_t i = 0; i < row.parts.size(); ++i) {
      if (!row.parts[i]) continue;
      const double width = row.parts[i]->us / whole * (kRight - kLeft);
      svg.bar({x, y + 2, std::max(width - 1, 1.0), 14}, kPartSeries[i],
              fmt::format("{}: {} us", kParts[i], number(row.parts[i]->us)));
      x += width;
    }
    const double end = kLeft + row.layer->us / whole * (kRight - kLeft);
    draw_floor(svg, end, y, 18);
    svg.text({kWidth - 12, y + 13}, number(row.layer->us), "t", Anchor::End);
    y += kStep;
  }
  draw_legend(svg, series, {12, y + 18}, kWidth);
  svg.line({268, y + 8}, {268, y + 20}, "floor");
  svg.text({276, y + 18}, "layer", "t");
  return {"ranks-" + slug(run.name + of_ranks(run)), std::move(svg)};
}

// ---- expert load

Chart load_chart(const ExpertLoad& load) {
  std::vector<int64_t> counts = load.counts;
  std::ranges::sort(counts, std::greater<>());
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
  const auto num = static_cast<double>(counts.size());
  const double mean = sum / num, most = std::max(static_cast<double>(counts.front()), 1.0);
  Svg svg(fmt::format("{}: rows of experts, sorted", load.name), kWidth, 232);
  const Axes axes{svg, {0, num, 48, kWidth - 12}, {0, most * 1.08, 182, 44}};
  svg.text({12, 18}, shortened(load.name, 44), "h");
  svg.text({12, 35}, "rows of an expert, the busiest first", "m");
  axes.rows(5);
  if (counts.size() <= 256) {
    for (size_t i = 0; i < counts.size(); ++i) {
      const auto value = static_cast<double>(counts[i]);
      const double from = axes.x(static_cast<double>(i)), to = axes.x(static_cast<double>(i + 1));
      svg.bar({from, axes.y(value), std::max(to - from - 0.5, 0.5), 182 - axes.y(value)}, 0);
    }
  } else {  // no picture is wide enough for so many bars
    Curve edge{{"", 0}, {}}, ground{{"", 0}, {}};
    for (int i = 0; i <= 256; ++i) {
      const double at = std::min(num - 1, num * i / 256);
      edge.dots.push_back({at, static_cast<double>(counts[static_cast<size_t>(at)]), ""});
      ground.dots.push_back({at, 0, ""});
    }
    svg.band(points_of(ground, axes.x, axes.y), points_of(edge, axes.x, axes.y), 0);
    svg.path(points_of(edge, axes.x, axes.y), 0);
  }
  axes.frame();
  svg.line({48, axes.y(mean)}, {kWidth - 12, axes.y(mean)}, "floor");
  const auto idle = std::ranges::count(counts, 0);
  svg.text({12, 204},
           fmt::format("mean {} (line), most {}, which is {} times the mean", number(mean),
                       counts.front(), number(mean > 0 ? most / mean : 0)),
           "m");
  svg.text({12, 222}, fmt::format("{} experts, {} idle", counts.size(), idle), "m");
  return {"load-" + slug(load.name), std::move(svg)};
}

// ---- trend

std::vector<Curve> trend_curves(const std::vector<const BenchRun*>& runs) {
  std::set<int64_t> all;
  for (const BenchRun* run : runs)
    for (const int64_t tokens : run->tokens()) all.insert(tokens);
  std::vector<Curve> curves;
  for (const int64_t tokens : all) {
    Curve curve{{fmt::format("{}", tokens), static_cast<int>(curves.size())}, {}};
    for (size_t i = 0; i < runs.size(); ++i)
      if (const BenchRow* row = runs[i]->fastest_layer(tokens); row && row->of_floor() > 0)
        curve.dots.push_back(
            {static_cast<double>(i), row->of_floor(),
             fmt::format("{} tokens, {} {}: {} us, {:.2f} of the floor", tokens,
                         shortened(runs[i]->date, 10), shortened(runs[i]->commit, 12),
                         number(row->us), row->of_floor())});
    if (curve.dots.size() > 1 && curves.size() < kMostSeries) curves.push_back(std::move(curve));
  }
  return curves;
}

void draw_dates(Svg& svg, const std::vector<const BenchRun*>& runs, const Scale& x, double y) {
  const size_t step = (runs.size() + 3) / 4;  // four labels fit
  for (size_t i = 0; i < runs.size(); i += step) {
    const bool first = i == 0, last = i + 1 == runs.size();
    const Anchor anchor = first ? Anchor::Start : last ? Anchor::End : Anchor::Middle;
    const double at = x(static_cast<double>(i)) + (first ? -10 : last ? 10 : 0);
    svg.text({at, y + 15}, runs[i]->date.substr(0, 10), "m", anchor);
    svg.text({at, y + 29}, shortened(runs[i]->commit, 10), "m", anchor);
  }
}

Chart trend_chart(const std::vector<const BenchRun*>& runs, const std::vector<Curve>& curves) {
  const BenchRun& run = *runs.back();
  auto series = series_of(curves);
  series.back().name += " tokens";
  const double bottom = 182, legend = legend_height(series, kWidth - 44);
  Svg svg(fmt::format("{}: time over floor by date", run.name), kWidth, bottom + 54 + legend);
  Extent ratios;
  ratios.add(1);
  for (const Curve& curve : curves)
    for (const Dot& dot : curve.dots) ratios.add(dot.value);
  const Axes axes{svg,
                  {-0.15, static_cast<double>(runs.size()) - 0.85, 44, kWidth - 12},
                  scale_over(ratios.least, ratios.most, bottom, 44, ratios.is_wide())};
  svg.text({12, 18}, title_of(run), "h");
  svg.text({12, 35}, shortened(fmt::format("time / floor, {}", run.device), 52), "m");
  axes.rows(5);
  axes.frame();
  svg.line({axes.x.from, axes.y(1)}, {axes.x.to, axes.y(1)}, "floor");
  for (const Curve& curve : curves) draw_curve(svg, curve, axes.x, axes.y);
  draw_dates(svg, runs, axes.x, bottom);
  draw_legend(svg, series, {44, bottom + 54}, kWidth - 44);
  return {"trend-" + slug(run.name + of_ranks(run)), std::move(svg)};
}

// Runs that differ in their date alone, the oldest first, in the order of the files.
std::vector<std::vector<const BenchRun*>> histories(const Results& results) {
  std::vector<std::vector<const BenchRun*>> all;
  std::map<Key, size_t> place;
  for (const BenchRun& run : results.runs) {
    const auto [at, is_new] = place.emplace(key_of(run), all.size());
    if (is_new) all.emplace_back();
    all[at->second].push_back(&run);
  }
  for (auto& runs : all) std::ranges::stable_sort(runs, {}, &BenchRun::date);
  return all;
}

}  // namespace

std::vector<const BenchRun*> newest_runs(const Results& results) {
  std::vector<const BenchRun*> newest;
  for (const auto& runs : histories(results)) newest.push_back(runs.back());
  return newest;
}

std::vector<const BenchRow*> layers_shown_in_parts(const BenchRun& run) {
  constexpr int64_t kDecode = 128;
  const auto tokens = run.tokens();
  if (tokens.empty() || !has_layers_alone(run)) return {};
  const auto above = std::ranges::upper_bound(tokens, kDecode);
  std::set<int64_t> wanted = {above == tokens.begin() ? tokens.front() : *std::prev(above),
                              tokens.back()};
  std::vector<const BenchRow*> layers;
  for (const int64_t t : wanted) {
    const BenchRow* layer = run.fastest_layer(t);
    if (layer && parts_of(run, *layer).size() > 1) layers.push_back(layer);
  }
  return layers;
}

std::vector<const BenchRow*> parts_of(const BenchRun& run, const BenchRow& layer) {
  std::vector<const BenchRow*> parts;
  for (const BenchRow& row : run.rows)
    if (row.tokens == layer.tokens && row.strategy == layer.strategy &&
        row.layout == layer.layout && !row.is_layer() && !row.eager && parts.size() < kMostBars)
      parts.push_back(&row);
  parts.push_back(&layer);
  return parts;
}

std::vector<Chart> ratio_charts(const Results& results) {
  std::vector<Chart> charts;
  for (const BenchRun* run : newest_runs(results)) {
    if (!run->is_plain() || run->is_linear_attention()) continue;
    Band band;
    const auto curves = ratio_curves(results, *run, band);
    if (!curves.empty()) charts.push_back(ratio_chart(*run, curves, band));
  }
  finish(charts);
  return charts;
}

std::vector<Chart> rooflines(const Results& results) {
  std::vector<std::string> devices;
  std::map<std::string, std::vector<const BenchRun*>> runs;
  for (const BenchRun* run : newest_runs(results)) {
    if (!has_layers_alone(*run) || run->tflops <= 0 || run->read_gbps <= 0) continue;
    if (runs[run->device].empty()) devices.push_back(run->device);
    runs[run->device].push_back(run);
  }
  std::vector<Chart> charts;
  for (const auto& device : devices)
    if (const auto curves = roofline_curves(runs[device]); !curves.empty())
      charts.push_back(roofline(device.empty() ? "this machine" : device, runs[device], curves));
  finish(charts);
  return charts;
}

std::vector<Chart> operation_charts(const Results& results) {
  std::vector<Chart> charts;
  for (const BenchRun* run : newest_runs(results))
    for (const BenchRow* layer : layers_shown_in_parts(*run))
      charts.push_back(operation_chart(*run, *layer));
  finish(charts);
  return charts;
}

std::vector<Chart> rank_charts(const Results& results) {
  std::vector<Chart> charts;
  for (const BenchRun* run : newest_runs(results))
    if (const auto rows = rank_parts(*run); !rows.empty()) charts.push_back(rank_chart(*run, rows));
  finish(charts);
  return charts;
}

std::vector<Chart> load_charts(const Results& results) {
  std::vector<Chart> charts;
  for (const ExpertLoad& load : results.loads) charts.push_back(load_chart(load));
  finish(charts);
  return charts;
}

std::vector<Chart> trend_charts(const Results& results) {
  std::vector<Chart> charts;
  for (const auto& runs : histories(results)) {
    std::vector<const BenchRun*> with_layers;
    for (const BenchRun* run : runs)
      if (!run->tokens().empty()) with_layers.push_back(run);
    if (with_layers.size() < 2 || !with_layers.front()->is_plain()) continue;
    if (const auto curves = trend_curves(with_layers); !curves.empty())
      charts.push_back(trend_chart(with_layers, curves));
  }
  finish(charts);
  return charts;
}

}  // namespace switchyard::cli
