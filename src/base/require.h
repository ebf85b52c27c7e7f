// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/require.h -- the one way to refuse something, and the text of it: the same in every locale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "switchyard/error.h"

namespace switchyard {

void append_number(std::string& text, int64_t value);
void append_number(std::string& text, uint64_t value);
// Up to so many significant digits: "0.25", "1e+20".
void append_number(std::string& text, double value, int digits = 6);

template <class Part>
void append(std::string& text, const Part& part) {
  if constexpr (std::is_same_v<Part, char>)
    text += part;
  else if constexpr (std::is_floating_point_v<Part>)
    append_number(text, static_cast<double>(part));
  else if constexpr (std::is_convertible_v<const Part&, std::string_view>)
    text += std::string_view(part);
  else if constexpr (std::is_signed_v<Part>)
    append_number(text, static_cast<int64_t>(part));
  else
    append_number(text, static_cast<uint64_t>(part));
}

// Not through a stream: a program's locale may group digits, and what ranks compare must be equal.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
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
