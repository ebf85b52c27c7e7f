// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/versioned.h -- structs that begin with `size` and grow at their end.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "c_api/call.h"

namespace switchyard::c_api {

// Far more than any struct will have: a larger size is garbage, and its surplus is not read.
inline constexpr size_t kMostBytes = 4096;

template <class T>
void check_size(const char* operation, const char* name, size_t size) {
  static_assert(std::is_standard_layout_v<T> && std::is_trivially_copyable_v<T> &&
                offsetof(T, size) == 0);
  SWITCHYARD_C_REQUIRE(size > sizeof(size_t) && size <= kMostBytes && size % alignof(T) == 0,
                       operation, ": ", name, ".size=", size, ", this header has ", sizeof(T),
                       ". Initialise it with SWY_INIT.");
}

// The caller's struct, in the size that its header has; what that does not have keeps `defaults`.
template <class T>
T read(const char* operation, const char* name, const T* given, T defaults) {
  const size_t size = required(operation, name, given).size;
  check_size<T>(operation, name, size);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const bool is_known =
      size <= sizeof(T) ||
      std::all_of(bytes + sizeof(T), bytes + size, [](unsigned char byte) { return byte == 0; });
  SWITCHYARD_REQUIRE(is_known, Unsupported, operation, ": ", name, ".size=", size,
                     ", this library (version ", SWY_VERSION, ") knows ", sizeof(T),
                     " bytes, and the others are not 0. Use a library as new as the header.");
  std::memcpy(&defaults, given, std::min(size, sizeof(T)));
  defaults.size = sizeof(T);
  return defaults;
}

// The same of a struct that may be absent.
template <class T>
T read_or(const char* operation, const char* name, const T* given, T defaults) {
  return given == nullptr ? defaults : read(operation, name, given, defaults);
}

// `value` in the size that the caller's struct says it has.
template <class T>
void write(T& out, const T& value, size_t size) {
  std::memset(static_cast<void*>(&out), 0, size);
  std::memcpy(static_cast<void*>(&out), &value, std::min(size, sizeof(T)));
  out.size = size;
}

template <class T>
void check_output(const char* operation, const char* name, const T* out) {
  check_size<T>(operation, name, required(operation, name, out).size);
}

template <class T>
swy_status init(const char* operation, T* out, size_t size, const T& defaults) {
  return guarded([&] {
    required(operation, "struct", out);
    check_size<T>(operation, "struct", size);
    write(*out, defaults, size);
  });
}

}  // namespace switchyard::c_api
