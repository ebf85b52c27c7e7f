// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/tensors.cc -- memory of Switchyard's own, safetensors files and the float64 oracle.
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <new>

#include "bind.h"
#include "dlpack.h"
#include "errors.h"
#include "host.h"
#include "own_tensor.h"
#include "switchyard/oracle.h"
#include "switchyard/safetensors.h"

namespace switchyard::python {
namespace {

struct OpenFile {
  std::shared_ptr<const TensorFile> file;
};

nb::dlpack::dtype dlpack_dtype(DType dtype) {
  const auto bits = static_cast<uint8_t>(8 * dtype_bytes(dtype));
  switch (dtype) {
    case DType::Bf16: return {dlpack::kBfloat, bits, 1};
    case DType::F8E4m3: return {dlpack::kFloat8E4m3fn, bits, 1};
    case DType::I32:
    case DType::I64: return {dlpack::kInt, bits, 1};
    default: return {dlpack::kFloat, bits, 1};
  }
}

// What ml_dtypes calls a dtype that numpy lacks; null for the others.
const char* ml_dtype_of(DType dtype) {
  switch (dtype) {
    case DType::Bf16: return "bfloat16";
    case DType::F8E4m3: return "float8_e4m3fn";
    default: return nullptr;
  }
}

nb::tuple shape_of(const OwnTensor& tensor) {
  nb::list dims;
  for (int d = 0; d < tensor.view.shape.rank(); ++d) dims.append(tensor.view.dim(d));
  return nb::tuple(dims);
}

// An object of nanobind's that has __dlpack__ in every version; `self` keeps the memory.
nb::object exported(nb::handle self) {
  const auto& own = nb::cast<const OwnTensor&>(self);
  std::array<size_t, Shape::kMaxRank> shape{};
  for (int d = 0; d < own.view.shape.rank(); ++d)
    shape[static_cast<size_t>(d)] = static_cast<size_t>(own.view.dim(d));
  const auto rank = static_cast<size_t>(own.view.shape.rank());
  const int device = own.view.device == DeviceKind::Cpu ? dlpack::kCpu : dlpack::kCuda;
  if (own.read_only)
    return nb::cast(nb::ndarray<nb::array_api, nb::ro>(
        static_cast<const void*>(own.view.data), rank, shape.data(), self, nullptr,
        dlpack_dtype(own.view.dtype), device, own.device_index));
  return nb::cast(nb::ndarray<nb::array_api>(own.view.data, rank, shape.data(), self, nullptr,
                                             dlpack_dtype(own.view.dtype), device,
                                             own.device_index));
}

void bind_own_tensor(nb::module_& m) {
  nb::class_<OwnTensor>(m, "Tensor",
                        "An array in memory of Switchyard's own, for programs without an array "
                        "library: every function "
                        "takes it, and torch.from_dlpack, jax.numpy.from_dlpack and numpy() take "
                        "its memory without a copy.")
      .def_prop_ro("shape", &shape_of)
      .def_prop_ro(
          "dtype", [](const OwnTensor& t) { return dtype_name(t.view.dtype); },
          "'bf16', 'f16', 'f32', 'f64', 'i32', 'i64', 'f8_e4m3'.")
      .def_prop_ro("read_only", [](const OwnTensor& t) { return t.read_only; })
      .def(
          "__dlpack__",
          [](nb::handle self, const nb::kwargs& options) {
            return exported(self).attr("__dlpack__")(**options);
          },
          "options"_a, nb::sig("def __dlpack__(self, **options: typing.Any) -> typing.Any"))
      .def(
          "__dlpack_device__",
          [](const OwnTensor& t) {
            return nb::make_tuple(
                int(t.view.device == DeviceKind::Cpu ? dlpack::kCpu : dlpack::kCuda),
                t.device_index);
          },
          nb::sig("def __dlpack_device__(self) -> tuple[int, int]"))
      .def("__repr__",
           [](const OwnTensor& t) {
             return "<switchyard.Tensor " + std::string(dtype_name(t.view.dtype)) + " " +
                    nb::cast<std::string>(nb::str(nb::handle(shape_of(t)))) + ">";
           })
      .def(
          "_bits",
          [](nb::handle self) {
            const auto& own = nb::cast<const OwnTensor&>(self);
            if (own.view.device == DeviceKind::Cuda)
              refuse(Errc::Unsupported, "numpy: the tensor is on cuda:", own.device_index,
                     ". Take it with torch.from_dlpack or cupy.from_dlpack.");
            std::array<size_t, Shape::kMaxRank> shape{};
            for (int d = 0; d < own.view.shape.rank(); ++d)
              shape[static_cast<size_t>(d)] = static_cast<size_t>(own.view.dim(d));
            nb::dlpack::dtype dtype = dlpack_dtype(own.view.dtype);
            if (ml_dtype_of(own.view.dtype)) dtype.code = dlpack::kUnsigned;
            const auto rank = static_cast<size_t>(own.view.shape.rank());
            if (own.read_only)
              return nb::cast(
                  nb::ndarray<nb::numpy, nb::ro>(static_cast<const void*>(own.view.data), rank,
                                                 shape.data(), self, nullptr, dtype));
            return nb::cast(
                nb::ndarray<nb::numpy>(own.view.data, rank, shape.data(), self, nullptr, dtype));
          },
          "numpy's view; bf16 and f8_e4m3 as their bits, uint16 and uint8.")
      .def(
          "numpy",
          [](nb::handle self) {
            nb::object array = self.attr("_bits")();
            const char* name = ml_dtype_of(nb::cast<const OwnTensor&>(self).view.dtype);
            if (name == nullptr) return array;
            try {
              return array.attr("view")(nb::module_::import_("ml_dtypes").attr(name));
            } catch (nb::python_error& error) {
              if (!error.matches(PyExc_ImportError)) throw;
              return array;
            }
          },
          "A numpy array of the same memory; bf16 as ml_dtypes.bfloat16 and f8_e4m3 as "
          "ml_dtypes.float8_e4m3fn where that is installed, else their bits as uint16 and uint8. "
          "Raises Unsupported on a GPU.",
          nb::sig("def numpy(self) -> typing.Any"));
}

void bind_files(nb::module_& m) {
  nb::class_<OpenFile>(
      m, "TensorFile",
      "An open safetensors file. Raises BadFile for a damaged one, naming what is wrong.")
      .def(
          "__init__",
          [](OpenFile* self, const std::filesystem::path& path) {
            new (self) OpenFile{TensorFile::open(path)};
          },
          "path"_a)
      .def_prop_ro("names",
                   [](const OpenFile& f) {
                     std::vector<std::string> names;
                     for (const TensorEntry& entry : f.file->entries()) names.push_back(entry.name);
                     return names;
                   })
      .def(
          "tensor",
          [](const OpenFile& f, const std::string& name) {
            ConstTensor t;
            {
              const nb::gil_scoped_release unlocked;
              t = f.file->tensor(name);
            }
            return OwnTensor{Tensor(const_cast<void*>(t.data), t.dtype, t.shape), 0, true, f.file};
          },
          "name"_a,
          "A read-only tensor. Raises BadFile for a missing name (with the nearest ones), "
          "Unsupported for "
          "a dtype that is not read.");
}

void bind_oracle(nb::module_& m) {
  nb::class_<Difference>(m, "Difference", "How far one result is from another.")
      .def_ro("rel_error", &Difference::rel_error, "||actual - expected|| / ||expected||, of all.")
      .def_ro("max_row_error", &Difference::max_row_error, "The same of the worst row.")
      .def_ro("worst_row", &Difference::worst_row)
      .def_ro("max_abs_error", &Difference::max_abs_error)
      .def("__repr__", [](const Difference& d) {
        return "<Difference rel_error " + std::to_string(d.rel_error) + ">";
      });
  m.def(
      "compare",
      [](const Array& actual, const Array& expected) {
        CallArrays arrays("compare", {});
        const ConstTensor a = arrays.read("actual", actual), e = arrays.read("expected", expected);
        const nb::gil_scoped_release unlocked;
        return compare(a, e);
      },
      "actual"_a, "expected"_a,
      "How far `actual` (bf16 or f32 [T, H]) is from `expected` (f64 [T, H]), on the CPU. NaN "
      "anywhere in "
      "`actual` gives NaN. Raises ShapeMismatch.");
  m.def(
      "oracle_forward",
      [](const MoeConfig& config, const HostWeights& weights, const Array& hidden,
         const Optional& ids, const Optional& router_weights, const Optional& token_ids) {
        CallArrays arrays("oracle_forward", {});
        const ConstTensor rows = arrays.read("hidden", hidden);
        const ConstTensor i = arrays.read("ids", handle_of(ids)),
                          w = arrays.read("weights", handle_of(router_weights)),
                          t = arrays.read("token_ids", handle_of(token_ids));
        OwnTensor result =
            make_own_tensor(DType::F64, {rows.present() ? rows.dim(0) : 0, config.hidden});
        const nb::gil_scoped_release unlocked;
        oracle_forward(result.view, config, weights.weights, rows, i, w, t);
        return result;
      },
      "config"_a, "layer_weights"_a, "hidden"_a, nb::kw_only(), "ids"_a = nb::none(),
      "weights"_a = nb::none(), "token_ids"_a = nb::none(),
      "The whole layer in float64 on the CPU, without any rounding between: f64 [T, H] for hidden "
      "bf16 "
      "[T, H]. Arguments as of MoeLayer.forward. Raises ShapeMismatch, BadRouting.");
}

}  // namespace

OwnTensor make_own_tensor(DType dtype, Shape shape) {
  constexpr size_t kAlign = Workspace::kAlignment;
  const auto bytes = static_cast<size_t>(shape.count() * dtype_bytes(dtype));
  void* const memory = std::aligned_alloc(kAlign, (bytes / kAlign + 1) * kAlign);
  if (memory == nullptr) throw std::bad_alloc();
  const std::shared_ptr<void> owner(memory, [](void* m) { std::free(m); });
  return {Tensor(memory, dtype, shape), 0, false, owner};
}

std::shared_ptr<const void> reference_to(nb::handle object) {
  return {object.inc_ref().ptr(), [](const void* kept) {
            if (nb::detail::cleanup_guard guard{}; guard)
              nb::handle(static_cast<PyObject*>(const_cast<void*>(kept))).dec_ref();
          }};
}

void bind_tensors(nb::module_& m) {
  bind_own_tensor(m);
  bind_files(m);
  bind_oracle(m);
}

}  // namespace switchyard::python
