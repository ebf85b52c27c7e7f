// src/base/require.h -- the one way to refuse something.
#pragma once

#include <sstream>
#include <string>
#include <utility>

#include "switchyard/error.h"

namespace switchyard {

template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream os;
  (os << ... << parts);
  return os.str();
}

// "a, b, c".
template <class Parts>
std::string joined(Parts&& parts, const char* separator = ", ") {
  std::string text;
  bool first = true;
  for (const auto& part : parts) text += cat(std::exchange(first, false) ? "" : separator, part);
  return text;
}

}  // namespace switchyard

// A message says: <operation>: <name>=<value>, <the rule>. <What to do instead.>
#define SWITCHYARD_REQUIRE(cond, code, ...)                                                \
  do {                                                                                     \
    if (!(cond))                                                                           \
      throw ::switchyard::Error(::switchyard::Errc::code, ::switchyard::cat(__VA_ARGS__)); \
  } while (false)
