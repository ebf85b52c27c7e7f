// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/bind.h -- the parts of the module, and how a plain struct is bound.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "switchyard/tensor.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace switchyard::python {
inline bool is_text(nb::handle object, const char* text) {
  return PyUnicode_Check(object.ptr()) && PyUnicode_CompareWithASCIIString(object.ptr(), text) == 0;
}
}  // namespace switchyard::python

// Seconds. What is more than nothing is not rounded to it.
template <>
struct nanobind::detail::type_caster<std::chrono::milliseconds> {
  NB_TYPE_CASTER(std::chrono::milliseconds, const_name("float"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    const double ms = std::ceil(PyFloat_AsDouble(source.ptr()) * 1e3);
    if (PyErr_Occurred() != nullptr) return PyErr_Clear(), false;
    if (!(std::abs(ms) < 1e15)) return false;
    value = std::chrono::milliseconds(static_cast<int64_t>(ms));
    return true;
  }
  static handle from_cpp(std::chrono::milliseconds time, rv_policy, cleanup_list*) noexcept {
    return PyFloat_FromDouble(static_cast<double>(time.count()) / 1e3);
  }
};

// "bf16", "f8_e4m3", ...
template <>
struct nanobind::detail::type_caster<switchyard::DType> {
  NB_TYPE_CASTER(switchyard::DType, const_name("str"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    for (int i = 0; i <= int(switchyard::DType::F8E4m3); ++i)
      if (switchyard::python::is_text(source, switchyard::dtype_name(switchyard::DType(i)))) {
        value = switchyard::DType(i);
        return true;
      }
    return false;
  }
  static handle from_cpp(switchyard::DType dtype, rv_policy, cleanup_list*) noexcept {
    return PyUnicode_FromString(switchyard::dtype_name(dtype));
  }
};

// "cpu", "cuda".
template <>
struct nanobind::detail::type_caster<switchyard::DeviceKind> {
  NB_TYPE_CASTER(switchyard::DeviceKind, const_name("str"))
  bool from_python(handle source, uint8_t, cleanup_list*) noexcept {
    for (const auto kind : {switchyard::DeviceKind::Cpu, switchyard::DeviceKind::Cuda})
      if (switchyard::python::is_text(source, switchyard::device_name(kind))) {
        value = kind;
        return true;
      }
    return false;
  }
  static handle from_cpp(switchyard::DeviceKind kind, rv_policy, cleanup_list*) noexcept {
    return PyUnicode_FromString(switchyard::device_name(kind));
  }
};

namespace switchyard::python {

template <class T, class Member>
struct Field {
  const char* name;
  Member T::*member;
  const char* doc;
};

template <class Member>
auto keyword(const char* name, const Member& value) {
  return nb::arg(name) = value;
}
// A pointer may be None, which nanobind refuses by default.
template <class T>
auto keyword(const char* name, const std::shared_ptr<T>&) {
  return nb::arg(name).none() = nb::none();
}

// Attributes of these names, and a constructor that takes them as keywords with C++'s defaults.
template <class T, class... Members>
void bind_fields(nb::class_<T>& type, Field<T, Members>... fields) {
  const T defaults{};
  type.def(
      "__init__",
      [fields...](T* self, Members... values) {
        T made{};
        ((made.*(fields.member) = std::move(values)), ...);
        new (self) T(std::move(made));
      },
      nb::kw_only(), keyword(fields.name, defaults.*(fields.member))...);
  (type.def_rw(fields.name, fields.member, fields.doc), ...);
}

// == of values; nothing else is equal.
template <class T>
void bind_equality(nb::class_<T>& type) {
  type.def(
      "__eq__", [](const T& a, const T& b) { return a == b; }, nb::is_operator(),
      nb::sig("def __eq__(self, other: object, /) -> bool"));
}

void bind_config(nb::module_& m);
void bind_tensors(nb::module_& m);
void bind_backends(nb::module_& m);
void bind_weights(nb::module_& m);
void bind_placement(nb::module_& m);
void bind_ranks(nb::module_& m);
void bind_layer(nb::module_& m);
void bind_fused_experts(nb::module_& m);
void bind_torch_op(nb::module_& m);
void bind_linear_attention(nb::module_& m);

}  // namespace switchyard::python
