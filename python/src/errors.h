// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/errors.h -- errors of this module, and how C++ errors become Python's.
#pragma once

#include <nanobind/nanobind.h>

#include <sstream>

#include "switchyard/error.h"

namespace switchyard::python {

template <class... Parts>
[[noreturn]] void refuse(Errc code, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(code, text.str());
}

// Every switchyard::Error becomes the class of its code in switchyard._errors, with its text.
void translate_errors();

}  // namespace switchyard::python
