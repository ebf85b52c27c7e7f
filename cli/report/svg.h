// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/svg.h -- pictures as text: shapes, scales and the text of files, escaped.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard::cli {

// ---- text

// For HTML and XML, in elements and in attributes: markup is spelt, and what XML cannot hold or what
// changes the direction of what follows becomes U+FFFD.
std::string escaped(std::string_view text);
// At most `most` characters, of which the last one is then an ellipsis.
std::string shortened(std::string_view text, size_t most);
// Three digits: 0.012, 4.13, 42.0, 1245, 1.2e+07.
std::string number(double value);

// ---- shapes

struct Point {
  double x, y;
};

struct Box {
  double x, y, width, height;
};

enum class Anchor { Start, Middle, End };

// Colours and markers are numbered; more series than these share them.
inline constexpr int kNumSeries = 8;

// A picture of width x height units, which are pixels where it is shown in its own size. Texts are
// escaped here. Styles are classes of chart_style().
class Svg {
 public:
  Svg(std::string title, double width, double height);

  void line(Point from, Point to, const char* style);
  void path(std::span<const Point> points, int series, bool dashed = false);
  // Between two lines of as many points.
  void band(std::span<const Point> low, std::span<const Point> high, int series);
  // `tip` is shown under the pointer, and read aloud.
  void bar(Box box, const char* style, const std::string& tip = "");
  void bar(Box box, int series, const std::string& tip = "");
  void marker(Point at, int series, const std::string& tip = "");
  void text(Point at, std::string_view text, const char* style = "t",
            Anchor anchor = Anchor::Start);

  double width() const { return width_; }
  // Inside a page that has chart_style().
  std::string in_page() const;
  // By itself, with its own style.
  std::string file() const;

 private:
  std::string opened(const char* attributes) const;

  std::string title_, body_;
  double width_, height_;
};

// Pixels that a text takes, about: system fonts differ.
double text_width(std::string_view text, double size = 12);

// CSS of all pictures: series, lines and texts, light and dark.
std::string_view chart_style();

// ---- scales

// A range of values on a range of pixels.
struct Scale {
  double low, high, from, to;
  bool log = false;

  double operator()(double value) const;
  // Values for a grid, about `wanted` of them: 1, 2 and 5 times powers of ten.
  std::vector<double> ticks(int wanted) const;
};

// From below the least to above the greatest value, so that no point lies on the frame.
Scale scale_over(double least, double most, double from, double to, bool log);

}  // namespace switchyard::cli
