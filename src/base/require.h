// src/base/require.h -- the one way to refuse something.
#pragma once

#include <sstream>
#include <string>

#include "switchyard/error.h"

namespace switchyard {

template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream os;
  (os << ... << parts);
  return os.str();
}

}  // namespace switchyard

// A message says: <operation>: <name>=<value>, <the rule>. <What to do instead.>
#define SWITCHYARD_REQUIRE(cond, code, ...)                                                \
  do {                                                                                     \
    if (!(cond))                                                                           \
      throw ::switchyard::Error(::switchyard::Errc::code, ::switchyard::cat(__VA_ARGS__)); \
  } while (false)
