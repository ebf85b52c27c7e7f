// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/errors.cc -- the class of switchyard._errors that a code has.
#include "errors.h"

#include <nanobind/stl/string.h>

namespace nb = nanobind;

namespace switchyard::python {
namespace {

void raise(const Error& error) {
  try {
    const nb::object type =
        nb::module_::import_("switchyard._errors").attr("BY_CODE")[nb::int_(int(error.code()))];
    PyErr_SetString(type.ptr(), error.what());
  } catch (nb::python_error& failed) {  // at the end of the interpreter there is no module
    failed.restore();
  }
}

}  // namespace

void translate_errors() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error& error) {
      raise(error);
    }
  });
}

}  // namespace switchyard::python
