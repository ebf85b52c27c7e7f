// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/as_error.h -- what the standard library throws reaches a caller as an Error.
#pragma once

#include <new>
#include <utility>

#include "switchyard/error.h"

namespace switchyard {

// Of the exception at hand, which std::exception is a base of: memory that ran out, threads that
// cannot be made. Others go on as they are. Needs no memory if there is none.
[[noreturn]] void throw_as_error(const char* operation);

// f(); its exceptions become Errors.
template <class F>
decltype(auto) as_errors(const char* operation, F&& f) {
  try {
    return std::forward<F>(f)();
  } catch (const Error&) {
    throw;
  } catch (...) {
    throw_as_error(operation);
  }
}

// The same where peers wait: they get `tell(message)` before.
template <class F, class Tell>
decltype(auto) as_errors(const char* operation, F&& f, Tell tell) {
  try {
    return std::forward<F>(f)();
  } catch (const Error&) {
    throw;
  } catch (...) {
    try {
      throw_as_error(operation);
    } catch (const Error& e) {
      try {
        tell(e.what());
      } catch (const std::bad_alloc&) {  // peers end at their deadline
      }
      throw;
    }
  }
}

}  // namespace switchyard
