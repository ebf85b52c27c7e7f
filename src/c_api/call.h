// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/call.h -- the frame of every C function: exceptions become a status and a text.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "base/require.h"
#include "switchyard/switchyard.h"
#include "switchyard/version.h"

namespace switchyard::c_api {

// What C++ has no word for, since its types rule it out: SWY_INVALID_ARGUMENT.
class InvalidArgument : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

#define SWITCHYARD_C_REQUIRE(cond, ...)                                                      \
  do {                                                                                       \
    if (!(cond)) throw ::switchyard::c_api::InvalidArgument(::switchyard::cat(__VA_ARGS__)); \
  } while (false)

// The status of the exception that is being handled; its text becomes that of the thread.
swy_status status_of_exception() noexcept;
void clear_error() noexcept;

template <class F>
swy_status guarded(F&& body) noexcept {
  try {
    body();
    clear_error();
    return SWY_OK;
  } catch (...) {
    return status_of_exception();
  }
}

// `pointer`, which must not be null.
template <class T>
T& required(const char* operation, const char* name, T* pointer) {
  SWITCHYARD_C_REQUIRE(pointer != nullptr, operation, ": ", name,
                       "=NULL, must point to something. Pass its address.");
  return *pointer;
}

void check_range(const char* operation, const char* name, int64_t value, int64_t low, int64_t high);
inline constexpr int kMostRanks = 4096;  // as communicators have
// Of what this header calls reserved: another one may give it a meaning.
void check_reserved(const char* operation, const char* name, uint64_t value);

// A flag: 0 or 1.
inline bool flag(const char* operation, const char* name, int32_t value) {
  check_range(operation, name, value, 0, 1);
  return value != 0;
}

// One of `count` enumerators that begin with 0.
template <class Enum>
Enum enumerator(const char* operation, const char* name, int32_t value, int32_t count) {
  check_range(operation, name, value, 0, count - 1);
  return static_cast<Enum>(value);
}

}  // namespace switchyard::c_api
