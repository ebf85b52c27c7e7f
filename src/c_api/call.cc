// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/call.cc -- statuses, the text of a thread, the version.
#include "c_api/call.h"

#include <cstring>
#include <new>
#include <string_view>

#include "switchyard/error.h"

namespace switchyard::c_api {
namespace {

// Of fixed size, so that saying what is wrong allocates nothing. Error has at most 2000 bytes.
constexpr size_t kTextBytes = 2048;
thread_local char text_of_thread[kTextBytes];

static_assert(int{SWY_SHAPE_MISMATCH} == static_cast<int>(Errc::ShapeMismatch));
static_assert(int{SWY_MISALIGNED} == static_cast<int>(Errc::Misaligned));
static_assert(int{SWY_UNSUPPORTED} == static_cast<int>(Errc::Unsupported));
static_assert(int{SWY_BAD_FILE} == static_cast<int>(Errc::BadFile));
static_assert(int{SWY_CUDA_FAULT} == static_cast<int>(Errc::Cuda));
static_assert(int{SWY_TRANSPORT} == static_cast<int>(Errc::Transport));
static_assert(int{SWY_BAD_ROUTING} == static_cast<int>(Errc::BadRouting));
static_assert(int{SWY_BAD_STATE} == static_cast<int>(Errc::BadState));

swy_status fail(swy_status status, std::string_view text) noexcept {
  const size_t size = text.copy(text_of_thread, kTextBytes - 1);
  text_of_thread[size] = '\0';
  for (char* c = text_of_thread; *c != '\0'; ++c)
    if (static_cast<unsigned char>(*c) < ' ' || *c == '\x7f') *c = '?';
  return status;
}

}  // namespace

swy_status status_of_exception() noexcept {
  try {
    throw;
  } catch (const InvalidArgument& e) {
    return fail(SWY_INVALID_ARGUMENT, e.what());
  } catch (const Error& e) {
    return fail(static_cast<swy_status>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return fail(SWY_OUT_OF_MEMORY, "the host has no memory left. Free some, or use fewer tokens.");
  } catch (const std::exception& e) {
    return fail(SWY_INTERNAL, e.what());
  } catch (...) {
    return fail(SWY_INTERNAL, "an unknown exception.");
  }
}

void clear_error() noexcept {
  text_of_thread[0] = '\0';
}

void check_range(const char* operation, const char* name, int64_t value, int64_t low,
                 int64_t high) {
  SWITCHYARD_C_REQUIRE(value >= low && value <= high, operation, ": ", name, "=", value, ", need ",
                       low, " to ", high, ". Initialise its struct, then set one of these.");
}

void check_reserved(const char* operation, const char* name, uint64_t value) {
  SWITCHYARD_REQUIRE(value == 0, Unsupported, operation, ": ", name, "=", value,
                     ", must be 0 for this library (version ", SWY_VERSION,
                     "). Initialise its struct, or use a library as new as the header.");
}

}  // namespace switchyard::c_api

extern "C" {

uint32_t swy_version(void) {
  return SWY_VERSION;
}

const char* swy_version_string(void) {
  return SWITCHYARD_VERSION;
}

const char* swy_status_name(swy_status status) {
  switch (status) {
    case SWY_OK: return "Ok";
    case SWY_INVALID_ARGUMENT: return "InvalidArgument";
    case SWY_OUT_OF_MEMORY: return "OutOfMemory";
    case SWY_INTERNAL: return "Internal";
    default: return switchyard::errc_name(static_cast<switchyard::Errc>(status));
  }
}

const char* swy_last_error(void) {
  return switchyard::c_api::text_of_thread;
}

}  // extern "C"
