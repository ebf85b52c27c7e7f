// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/svg.cc
#include "report/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace switchyard::cli {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

struct Character {
  uint32_t code;
  size_t bytes;
};

// Of text whose UTF-8 was checked, or of single bytes.
Character first_of(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const size_t bytes = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (bytes == 1 || lead < 0xc2 || text.size() < bytes) return {lead, 1};
  uint32_t code = lead & (0x7fU >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xc0) != 0x80) return {lead, 1};
    code = code << 6 | (next & 0x3fU);
  }
  return {code, bytes};
}

bool may_be_shown(Character c) {
  const bool control = c.code < 0x20 || (c.code >= 0x7f && c.code < 0xa0);
  const bool broken = c.bytes == 1 && c.code >= 0x80;
  const bool direction = c.code == 0x200e || c.code == 0x200f ||
                         (c.code >= 0x202a && c.code <= 0x202e) ||
                         (c.code >= 0x2066 && c.code <= 0x2069);
  const bool none =
      (c.code >= 0xd800 && c.code < 0xe000) || (c.code & 0xfffe) == 0xfffe || c.code > 0x10ffff;
  return !control && !broken && !direction && !none;
}

std::string_view spelt(char c) {
  switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return {};
  }
}

// Pictures need no more than tenths of a pixel.
std::string px(double value) {
  std::string text = fmt::format("{:.1f}", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

std::string points_text(std::span<const Point> points) {
  std::string text;
  for (const Point& p : points)
    text += fmt::format("{}{},{}", text.empty() ? "" : " ", px(p.x), px(p.y));
  return text;
}

std::string with_tip(std::string_view element, std::string_view attributes,
                     const std::string& tip) {
  if (tip.empty()) return fmt::format("<{} {}/>", element, attributes);
  return fmt::format("<{0} {1}><title>{2}</title></{0}>", element, attributes, escaped(tip));
}

// A polygon around the origin for each series but the first, a circle.
constexpr double kR = 4;
const std::array<std::vector<Point>, kNumSeries>& shapes() {
  static const std::array<std::vector<Point>, kNumSeries> all = {{
      {},
      {{-kR, -kR}, {kR, -kR}, {kR, kR}, {-kR, kR}},
      {{0, -kR - 1}, {kR + 1, kR}, {-kR - 1, kR}},
      {{0, -kR - 1.5}, {kR + 1.5, 0}, {0, kR + 1.5}, {-kR - 1.5, 0}},
      {{0, kR + 1}, {kR + 1, -kR}, {-kR - 1, -kR}},
      {{-kR - 1, -1.5},
       {-1.5, -1.5},
       {-1.5, -kR - 1},
       {1.5, -kR - 1},
       {1.5, -1.5},
       {kR + 1, -1.5},
       {kR + 1, 1.5},
       {1.5, 1.5},
       {1.5, kR + 1},
       {-1.5, kR + 1},
       {-1.5, 1.5},
       {-kR - 1, 1.5}},
      {{-2.5, -kR - 1}, {2.5, -kR - 1}, {2.5, kR + 1}, {-2.5, kR + 1}},
      {{-kR - 1, -2.5}, {kR + 1, -2.5}, {kR + 1, 2.5}, {-kR - 1, 2.5}},
  }};
  return all;
}

constexpr std::array kAnchors = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};

}  // namespace

std::string escaped(std::string_view text) {
  std::string safe;
  while (!text.empty()) {
    const Character c = first_of(text);
    if (!may_be_shown(c))
      safe += kReplacement;
    else if (const auto markup = spelt(text[0]); !markup.empty())
      safe += markup;
    else
      safe += text.substr(0, c.bytes);
    text.remove_prefix(c.bytes);
  }
  return safe;
}

std::string shortened(std::string_view text, size_t most) {
  size_t end = 0, before_last = 0;
  for (size_t count = 0; end < text.size(); ++count) {
    if (count + 1 == most) before_last = end;
    if (count == most) return std::string(text.substr(0, before_last)) + "\xe2\x80\xa6";
    end += first_of(text.substr(end)).bytes;
  }
  return std::string(text);
}

std::string number(double value) {
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 0.01 || size >= 1e7) return fmt::format("{:.1e}", value);
  return fmt::format("{:.{}f}", value, size < 10 ? 2 : size < 100 ? 1 : 0);
}

double text_width(std::string_view text, double size) {
  const auto later = std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; });
  return static_cast<double>(static_cast<int64_t>(text.size()) - later) * size * 0.62;
}

// ---- Svg

Svg::Svg(std::string title, double width, double height)
    : title_(std::move(title)), width_(width), height_(height) {}

void Svg::line(Point from, Point to, const char* style) {
  body_ += fmt::format("<line class=\"{}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>", style,
                       px(from.x), px(from.y), px(to.x), px(to.y));
}

void Svg::path(std::span<const Point> points, int series, bool dashed) {
  body_ += fmt::format("<polyline class=\"l{} s{}\" points=\"{}\"/>", dashed ? " d" : "",
                       series % kNumSeries, points_text(points));
}

void Svg::band(std::span<const Point> low, std::span<const Point> high, int series) {
  std::vector<Point> around(low.begin(), low.end());
  around.insert(around.end(), high.rbegin(), high.rend());
  body_ += fmt::format("<polygon class=\"n s{}\" points=\"{}\"/>", series % kNumSeries,
                       points_text(around));
}

void Svg::bar(Box b, const char* style, const std::string& tip) {
  body_ += with_tip(
      "rect",
      fmt::format("class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", style, px(b.x),
                  px(b.y), px(std::max(b.width, 0.0)), px(std::max(b.height, 0.0))),
      tip);
}

void Svg::bar(Box box, int series, const std::string& tip) {
  bar(box, fmt::format("f s{}", series % kNumSeries).c_str(), tip);
}

void Svg::marker(Point at, int series, const std::string& tip) {
  const int kind = series % kNumSeries;
  std::vector<Point> shape = shapes()[static_cast<size_t>(kind)];
  for (Point& p : shape) p = {p.x + at.x, p.y + at.y};
  body_ +=
      shape.empty()
          ? with_tip("circle",
                     fmt::format("class=\"f s{}\" cx=\"{}\" cy=\"{}\" r=\"{}\"", kind, px(at.x),
                                 px(at.y), px(kR)),
                     tip)
          : with_tip("polygon",
                     fmt::format("class=\"f s{}\" points=\"{}\"", kind, points_text(shape)), tip);
}

void Svg::text(Point at, std::string_view text, const char* style, Anchor anchor) {
  body_ += fmt::format("<text class=\"{}\" x=\"{}\" y=\"{}\"{}>{}</text>", style, px(at.x),
                       px(at.y), kAnchors[static_cast<size_t>(anchor)], escaped(text));
}

std::string Svg::opened(const char* attributes) const {
  const std::string title = escaped(title_);
  return fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" {}>", px(width_),
      px(height_), title, attributes);
}

std::string Svg::in_page() const {
  return opened(fmt::format("style=\"max-width:{}px\"", px(width_ * 1.35)).c_str()) + body_ +
         "</svg>";
}

std::string Svg::file() const {
  const auto size = fmt::format("xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\"",
                                px(width_), px(height_));
  return fmt::format(
      "{}<title>{}</title><style>{}</style><rect class=\"paper\" width=\"{}\" "
      "height=\"{}\"/>{}</svg>\n",
      opened(size.c_str()), escaped(title_), chart_style(), px(width_), px(height_), body_);
}

// After Okabe and Ito, darker on white and lighter on black: each at least 4.5 to 1 against its
// paper.
std::string_view chart_style() {
  return R"(
:root{--paper:#fff;--ink:#1c1f23;--soft:#545b64;--grid:#dcdfe3;--edge:#868d96;
--s0:#0b63a5;--s1:#b84700;--s2:#00735a;--s3:#9c3a7b;
--s4:#7a6000;--s5:#b3261e;--s6:#6a45c4;--s7:#50565e}
@media(prefers-color-scheme:dark){
:root{--paper:#14171a;--ink:#e8eaed;--soft:#adb4bc;--grid:#33393f;--edge:#7d858e;
--s0:#6cb8f0;--s1:#ff9a57;--s2:#4fd1a5;--s3:#f0a0cf;
--s4:#e2c650;--s5:#ff8f86;--s6:#b9a0ff;--s7:#b6bcc4}}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}
.s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}.s7{--c:var(--s7)}
.chart{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
.chart .paper{fill:var(--paper)}
.chart text{fill:var(--ink);font-size:12px}
.chart .m{fill:var(--soft);font-size:11px}
.chart .h{font-size:13px;font-weight:600}
.chart line{stroke:var(--grid)}
.chart .axis{stroke:var(--edge)}
.chart .halo{stroke:var(--paper);stroke-width:5}
.chart .floor{stroke:var(--ink);stroke-width:2.5}
.chart .roof{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:6 4}
.chart .l{fill:none;stroke:var(--c);stroke-width:2}
.chart .d{stroke-dasharray:5 4}
.chart .n{fill:var(--c);opacity:.18}
.chart .f{fill:var(--c)}
)";
}

// ---- Scale

double Scale::operator()(double value) const {
  const double at =
      log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  return from + at * (to - from);
}

std::vector<double> Scale::ticks(int wanted) const {
  std::vector<double> ticks;
  if (log) {
    const double decades = std::log10(high / low);
    const bool few = decades > 2;
    const int step = std::max(1, static_cast<int>(std::ceil(decades / wanted)));
    for (int e = static_cast<int>(std::floor(std::log10(low))); std::pow(10, e) <= high;
         e += few ? step : 1)
      for (const double digit : {1.0, 2.0, 5.0})
        if (const double value = digit * std::pow(10, e);
            (!few || digit == 1) && value >= low && value <= high)
          ticks.push_back(value);
    return ticks;
  }
  const double rough = (high - low) / wanted, power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double digit : {5.0, 2.0, 1.0})
    if (digit * power >= rough) step = digit * power;
  for (double k = std::ceil(low / step); k * step <= high * (1 + 1e-12); ++k)
    ticks.push_back(k * step);
  return ticks;
}

Scale scale_over(double least, double most, double from, double to, bool log) {
  if (log) {
    const double room = std::max(std::pow(most / least, 0.06), 1.05);
    return {least / room, most * room, from, to, true};
  }
  const double room = std::max((most - least) * 0.08, std::max(std::abs(most), 1e-9) * 0.01);
  return {least - room, most + room, from, to, false};
}

}  // namespace switchyard::cli
