// src/weights/json_nesting.h -- refuse deep JSON before a recursive parser sees it.
#pragma once

#include <string>
#include <string_view>

#include "base/require.h"

namespace switchyard {

// Brackets inside strings do not count. 64 levels: configs have five, a parser's stack bears
// thousands.
inline void check_nesting(std::string_view text, const std::string& file) {
  constexpr int kMaxDepth = 64;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"')
      in_string = !in_string;
    else if (in_string && c == '\\')
      ++i;
    if (in_string) continue;
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    SWITCHYARD_REQUIRE(depth <= kMaxDepth, BadFile, "json: ", file, ", nests deeper than ",
                       kMaxDepth, " levels. The file is damaged.");
  }
}

}  // namespace switchyard
