// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/arrays.cc -- from an object to a view: the exchange table of its type, or __dlpack__.
#include "arrays.h"

#include <nanobind/stl/string.h>

#include <string_view>
#include <vector>

#include "dlpack.h"
#include "errors.h"
#include "own_tensor.h"
#include "torch_shim.h"

namespace switchyard::python {
namespace {

// ---- types of arrays

struct ArrayType {
  nb::object type;  // kept, so that its address stays its own
  Library library = Library::Other;
  bool is_torch_subclass = false;
  const dlpack::ExchangeApi* api = nullptr;  // torch from 2.11 on; null: __dlpack__
};

std::string name_of(nb::handle type) {
  return nb::cast<std::string>(type.attr("__module__")) + "." +
         nb::cast<std::string>(type.attr("__qualname__"));
}

const dlpack::ExchangeApi* exchange_api(nb::handle type) {
  if (!nb::hasattr(type, "__dlpack_c_exchange_api__")) return nullptr;
  const nb::object capsule = type.attr("__dlpack_c_exchange_api__");
  constexpr const char* kName = "dlpack_exchange_api";
  if (!PyCapsule_IsValid(capsule.ptr(), kName)) return nullptr;
  const auto* header =
      static_cast<const dlpack::ExchangeApiHeader*>(PyCapsule_GetPointer(capsule.ptr(), kName));
  while (header != nullptr && header->version.major != dlpack::kMajor) header = header->previous;
  return reinterpret_cast<const dlpack::ExchangeApi*>(header);
}

ArrayType describe_type(nb::handle type) {
  ArrayType described{nb::borrow(type)};
  const std::string name = name_of(type);
  const std::string_view root = std::string_view(name).substr(0, name.find('.'));
  const bool plain_torch = name == "torch.Tensor" || name == "torch.nn.parameter.Parameter";
  if (type.is(nb::type<OwnTensor>())) {
    described.library = Library::Own;
  } else if (plain_torch) {
    described.library = Library::Torch;
    described.api = exchange_api(type);
  } else if (name == "numpy.ndarray") {
    described.library = Library::Numpy;
  } else if (root == "cupy") {
    described.library = Library::Cupy;
  } else if (root == "jax" || root == "jaxlib") {
    described.library = Library::Jax;
  }
  for (const nb::handle base : type.attr("__mro__"))
    described.is_torch_subclass |= !plain_torch && name_of(base) == "torch.Tensor";
  return described;
}

// Of the last types seen; a program has few.
const ArrayType& type_of(nb::handle array) {
  static auto* const known = new std::vector<std::unique_ptr<ArrayType>>;
  const nb::handle type = array.type();
  for (const auto& entry : *known)
    if (entry->type.is(type)) return *entry;
  known->push_back(std::make_unique<ArrayType>(describe_type(type)));
  return *known->back();
}

// ---- views

DType dtype_of(dlpack::DataType dtype, Argument argument) {
  if (dtype.lanes == 1) {
    if (dtype.code == dlpack::kBfloat && dtype.bits == 16) return DType::Bf16;
    if (dtype.code == dlpack::kUnsigned && dtype.bits == 16) return DType::Bf16;  // its bits
    if (dtype.code == dlpack::kFloat8E4m3fn && dtype.bits == 8) return DType::F8E4m3;
    if (dtype.code == dlpack::kUnsigned && dtype.bits == 8) return DType::F8E4m3;  // its bits
    if (dtype.code == dlpack::kFloat && dtype.bits == 16) return DType::F16;
    if (dtype.code == dlpack::kFloat && dtype.bits == 32) return DType::F32;
    if (dtype.code == dlpack::kFloat && dtype.bits == 64) return DType::F64;
    if (dtype.code == dlpack::kInt && dtype.bits == 32) return DType::I32;
    if (dtype.code == dlpack::kInt && dtype.bits == 64) return DType::I64;
  }
  refuse(Errc::ShapeMismatch, argument.operation, ": ", argument.name, " has DLPack dtype code ",
         int(dtype.code), " of ", int(dtype.bits),
         " bits, known are bf16 and f8_e4m3 (or their bits as uint16 and uint8), f16, f32, f64, ",
         "i32, i64. Convert it.");
}

DeviceIndex device_of(dlpack::Device device, Argument argument) {
  switch (device.type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost: return {};
    case dlpack::kCuda: return {DeviceKind::Cuda, device.index};
    default:
      refuse(Errc::Unsupported, argument.operation, ": ", argument.name,
             " is on DLPack device type ", device.type, ", known are cpu and cuda. Copy it.");
  }
}

ArrayView view_of(const dlpack::Tensor& t, Argument argument) {
  if (t.ndim < 1 || t.ndim > Shape::kMaxRank)
    refuse(Errc::ShapeMismatch, argument.operation, ": ", argument.name, " has ", t.ndim,
           " dimensions, need 1 to ", Shape::kMaxRank, ". Reshape it.");
  ArrayView view{.present = true,
                 .dtype = dtype_of(t.dtype, argument),
                 .rank = t.ndim,
                 .device = device_of(t.device, argument)};
  int64_t count = 1, dense = 1;
  for (int d = t.ndim - 1; d >= 0; --d) {
    const auto at = static_cast<size_t>(d);
    view.shape[at] = t.shape[d];
    view.strides[at] = t.strides != nullptr ? t.strides[d] : dense;
    dense *= t.shape[d];
    count *= t.shape[d];
  }
  if (t.data == nullptr && count > 0)
    refuse(Errc::ShapeMismatch, argument.operation, ": ", argument.name, " has no memory, need ",
           count, " elements. Pass an array that holds its own.");
  if (t.data != nullptr) view.data = static_cast<std::byte*>(t.data) + t.byte_offset;
  return view;
}

// An owner whose reference is given back with the interpreter's lock.
template <class Managed>
std::shared_ptr<void> owner_of(Managed* managed) {
  return {managed, [](void* memory) {
            auto* const owned = static_cast<Managed*>(memory);
            if (nb::detail::cleanup_guard guard{}; guard && owned->deleter != nullptr)
              owned->deleter(owned);
          }};
}

void refuse_to_write(Argument argument, const char* why) {
  refuse(Errc::Unsupported, argument.operation, ": ", argument.name, " ", why,
         ". Pass an array that may be written.");
}

ArrayView from_capsule(nb::handle capsule, Argument argument, Access access) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* const managed = static_cast<dlpack::ManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->version.major != dlpack::kMajor)
      refuse(Errc::Unsupported, argument.operation, ": ", argument.name, " is of DLPack ",
             managed->version.major, ", need ", dlpack::kMajor, ". Convert it to numpy.");
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    std::shared_ptr<void> owner = owner_of(managed);
    if (access == Access::Write &&
        (managed->flags & dlpack::ManagedTensorVersioned::kReadOnly) != 0)
      refuse_to_write(argument, "is read-only");
    ArrayView view = view_of(managed->tensor, argument);
    view.owner = std::move(owner);
    return view;
  }
  if (!PyCapsule_IsValid(capsule.ptr(), "dltensor"))
    refuse(Errc::Unsupported, argument.operation, ": ", argument.name,
           " gives no DLPack capsule. Convert it to numpy.");
  auto* const managed =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  std::shared_ptr<void> owner = owner_of(managed);
  ArrayView view = view_of(managed->tensor, argument);
  view.owner = std::move(owner);
  return view;
}

// ---- the two ways

ArrayView from_exchange(const dlpack::ExchangeApi& api, nb::handle array, Argument argument,
                        Keep keep) {
  if (keep == Keep::ForTheCall && api.borrow_from_object != nullptr) {
    dlpack::Tensor borrowed;
    if (api.borrow_from_object(array.ptr(), &borrowed) != 0) throw nb::python_error();
    return view_of(borrowed, argument);
  }
  dlpack::ManagedTensorVersioned* managed = nullptr;
  if (api.managed_from_object(array.ptr(), &managed) != 0) throw nb::python_error();
  std::shared_ptr<void> owner = owner_of(managed);
  ArrayView view = view_of(managed->tensor, argument);
  view.owner = std::move(owner);
  return view;
}

bool on_cuda(nb::handle array) {
  return nb::hasattr(array, "__dlpack_device__") &&
         nb::cast<int>(array.attr("__dlpack_device__")()[0]) == dlpack::kCuda;
}

nb::object capsule_of(nb::handle array, Library library) {
  nb::dict options;
  // Work goes to the library's own stream, where it has one; else to the default stream, 1 here.
  if (on_cuda(array))
    options["stream"] = library == Library::Torch || library == Library::Cupy ? -1 : 1;
  const nb::object give = array.attr("__dlpack__");
  try {
    return give(nb::arg("max_version") = nb::make_tuple(1, 0), **options);
  } catch (nb::python_error& error) {  // made before DLPack 1.0
    if (!error.matches(PyExc_TypeError)) throw;
    return give(**options);
  }
}

ArrayView from_protocol(nb::handle array, Library library, Argument argument, Access access) {
  if (library == Library::Jax && access == Access::Write)
    refuse_to_write(argument, "is an array of jax, which never changes");
  if (!nb::hasattr(array, "__dlpack__")) {
    const std::string text = std::string(argument.operation) + ": " + argument.name + " is a " +
                             name_of(array.type()) +
                             ", need an array (numpy, torch, cupy, jax, any with __dlpack__). "
                             "Convert it with numpy.asarray.";
    throw nb::type_error(text.c_str());
  }
  nb::object source = nb::borrow(array);
  // DLPack of numpy has neither bf16 nor fp8.
  if (library == Library::Numpy || library == Library::Cupy) {
    const auto dtype = nb::cast<std::string>(array.attr("dtype").attr("name"));
    if (dtype == "bfloat16") source = array.attr("view")("uint16");
    if (dtype == "float8_e4m3fn") source = array.attr("view")("uint8");
  }
  return from_capsule(capsule_of(source, library), argument, access);
}

// A text that Python compares by its address, made once.
class Name {
 public:
  explicit Name(const char* text) : text_(PyUnicode_InternFromString(text)) {}
  nb::object of(nb::handle object) const {
    return nb::steal(check(PyObject_GetAttr(object.ptr(), text_)));
  }
  // The result of its method without arguments.
  nb::object called_on(nb::handle object) const {
    return nb::steal(check(PyObject_CallMethodObjArgs(object.ptr(), text_, nullptr)));
  }

 private:
  static PyObject* check(PyObject* result) {
    if (result == nullptr) throw nb::python_error();
    return result;
  }

  PyObject* text_;  // never freed
};

bool requires_grad(nb::handle tensor) {
  static const Name name("requires_grad");
  return name.of(tensor).is(Py_True);
}

bool is_negated(nb::handle tensor) {
  static const Name name("is_neg");
  return name.called_on(tensor).is(Py_True);
}

// What views drop or do not notice.
void check_torch(nb::handle array, const ArrayView& view, Argument argument, Access access) {
  if (view.dtype == DType::F32 && is_negated(array))
    refuse(Errc::Unsupported, argument.operation, ": ", argument.name,
           " is lazily negated. Call resolve_neg() on it.");
  if (access == Access::Write && requires_grad(array)) refuse_to_write(argument, "requires grad");
}

ArrayView own_view(nb::handle array, Argument argument, Access access) {
  const auto& own = nb::cast<const OwnTensor&>(array);
  if (access == Access::Write && own.read_only) refuse_to_write(argument, "is read-only");
  ArrayView view{.present = true,
                 .data = own.view.data,
                 .dtype = own.view.dtype,
                 .rank = own.view.shape.rank(),
                 .device = {own.view.device, own.device_index},
                 .owner = std::const_pointer_cast<void>(own.memory)};
  const StridedTensor strided(own.view);
  for (int d = 0; d < view.rank; ++d) view.shape[static_cast<size_t>(d)] = own.view.dim(d);
  view.strides = strided.strides;
  return view;
}

}  // namespace

Shape ArrayView::extent() const {
  switch (rank) {
    case 0: return {};
    case 1: return {shape[0]};
    case 2: return {shape[0], shape[1]};
    case 3: return {shape[0], shape[1], shape[2]};
    default: return {shape[0], shape[1], shape[2], shape[3]};
  }
}

bool ArrayView::has_gaps() const {
  if (present && extent().count() == 0) return false;
  int64_t dense = 1;
  for (int d = rank - 1; d >= 0; --d) {
    const auto at = static_cast<size_t>(d);
    if (shape[at] != 1 && strides[at] != dense) return true;
    dense *= shape[at];
  }
  return false;
}

Tensor tensor_of(const ArrayView& view) {
  return view.present ? Tensor(view.data, view.dtype, view.extent(), view.device.kind) : Tensor();
}

std::string describe(DeviceIndex device) {
  return device.kind == DeviceKind::Cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Library library_of(nb::handle array) {
  return array.is_none() ? Library::None : type_of(array).library;
}

ArrayView view_of(nb::handle array, Argument argument, Access access, Keep keep) {
  if (array.is_none()) return {};
  const ArrayType& type = type_of(array);
  if (type.is_torch_subclass)
    refuse(Errc::Unsupported, argument.operation, ": ", argument.name, " is a ", name_of(type.type),
           ", a kind of torch.Tensor that may have no memory of its own. ",
           "Pass a plain torch.Tensor, such as its local part.");
  if (type.library == Library::Own) return own_view(array, argument, access);
  // A tensor may get other memory (`t.data = ...`); a detached one keeps what it has.
  nb::object detached;
  if (type.library == Library::Torch && keep == Keep::Always)
    array = detached = array.attr("detach")();
  ArrayView view = type.api != nullptr ? from_exchange(*type.api, array, argument, keep)
                                       : from_protocol(array, type.library, argument, access);
  if (type.library == Library::Torch) check_torch(array, view, argument, access);
  return view;
}

// ---- the arrays of a call

namespace {

// A gradient that would be missing is an error, not a silence.
void check_no_gradient(nb::handle array, Argument argument) {
  // Asked first, since it takes less than an attribute.
  if (library_of(array) != Library::Torch || torch_shim::gradients_are_off()) return;
  if (!requires_grad(array)) return;
  if (nb::cast<bool>(nb::module_::import_("torch").attr("is_grad_enabled")()))
    refuse(Errc::Unsupported, argument.operation, ": ", argument.name,
           " requires grad, and no gradient is computed here. Call under torch.no_grad().");
}

void check_dense(const ArrayView& view, Argument argument) {
  if (view.has_gaps())
    refuse(Errc::ShapeMismatch, argument.operation, ": ", argument.name,
           " has gaps or another order of dimensions, need row-major. Pass a contiguous copy.");
}

// Elements from row to row where rows themselves are dense; 0: no gaps.
int64_t row_stride(const ArrayView& view, Argument argument) {
  if (view.rank != 2 || view.shape[0] < 2 || view.shape[1] == 0) return 0;
  if (view.shape[1] > 1 && view.strides[1] != 1) check_dense(view, argument);
  return view.strides[0] == view.shape[1] ? 0 : view.strides[0];
}

}  // namespace

ArrayView CallArrays::view(const char* name, nb::handle array, Access access) {
  const Argument argument{operation_, name};
  ArrayView view = view_of(array, argument, access, Keep::ForTheCall);
  if (!view.present) return view;
  if (view.device != device_)
    refuse(Errc::ShapeMismatch, operation_, ": ", name, " is on ", describe(view.device),
           ", the call runs on ", describe(device_), ". Copy it first.");
  if (access == Access::Read) check_no_gradient(array, argument);
  if (view.owner) owners_.push_back(view.owner);
  return view;
}

ConstTensor CallArrays::read(const char* name, nb::handle array) {
  const ArrayView seen = view(name, array, Access::Read);
  check_dense(seen, {operation_, name});
  return tensor_of(seen);
}

ConstTensor CallArrays::read_rows(const char* name, nb::handle array, int64_t& stride) {
  const ArrayView seen = view(name, array, Access::Read);
  stride = row_stride(seen, {operation_, name});
  return tensor_of(seen);
}

Tensor CallArrays::write(const char* name, nb::handle array) {
  const ArrayView seen = view(name, array, Access::Write);
  check_dense(seen, {operation_, name});
  return tensor_of(seen);
}

Tensor CallArrays::write_rows(const char* name, nb::handle array, int64_t& stride) {
  const ArrayView seen = view(name, array, Access::Write);
  stride = row_stride(seen, {operation_, name});
  return tensor_of(seen);
}

ConstStridedTensor CallArrays::read_strided(const char* name, nb::handle array) {
  const ArrayView seen = view(name, array, Access::Read);
  return {ConstTensor(tensor_of(seen)), seen.strides};
}

StridedTensor CallArrays::write_strided(const char* name, nb::handle array) {
  const ArrayView seen = view(name, array, Access::Write);
  return {tensor_of(seen), seen.strides};
}

Workspace CallArrays::workspace(const char* name, nb::handle array) {
  const Tensor bytes = write(name, array);
  return {bytes.data, static_cast<size_t>(bytes.bytes())};
}

// ---- what the library of an array gives

CUstream_st* current_stream(nb::handle array, DeviceIndex device) {
  if (device.kind == DeviceKind::Cpu || array.is_none()) return nullptr;
  const ArrayType& type = type_of(array);
  if (type.api != nullptr && type.api->current_stream != nullptr) {
    void* stream = nullptr;
    if (type.api->current_stream(dlpack::kCuda, device.index, &stream) != 0)
      throw nb::python_error();
    return static_cast<CUstream_st*>(stream);
  }
  const auto handle = [](const nb::object& address) {
    return reinterpret_cast<CUstream_st*>(nb::cast<uintptr_t>(address));
  };
  if (type.library == Library::Torch)
    return handle(nb::module_::import_("torch")
                      .attr("cuda")
                      .attr("current_stream")(device.index)
                      .attr("cuda_stream"));
  if (type.library == Library::Cupy)
    return handle(
        nb::module_::import_("cupy").attr("cuda").attr("get_current_stream")().attr("ptr"));
  return nullptr;
}

namespace {

nb::tuple tuple_of(Shape shape) {
  nb::list dims;
  for (int d = 0; d < shape.rank(); ++d) dims.append(shape[d]);
  return nb::tuple(dims);
}

const char* array_name_of(DType dtype) {
  switch (dtype) {
    case DType::Bf16: return "bfloat16";
    case DType::F16: return "float16";
    case DType::F32: return "float32";
    case DType::F64: return "float64";
    case DType::I32: return "int32";
    case DType::I64: return "int64";
    case DType::F8E4m3: return "float8_e4m3fn";
  }
  return "";
}

}  // namespace

nb::object new_array(nb::handle like, DType dtype, Shape shape, DeviceIndex device) {
  const nb::tuple dims = tuple_of(shape);
  switch (library_of(like)) {
    case Library::Torch:
      return like.attr("new_empty")(
          dims, nb::arg("dtype") = nb::module_::import_("torch").attr(array_name_of(dtype)),
          nb::arg("requires_grad") = false);
    case Library::Numpy:
    case Library::Cupy: {
      const char* module = library_of(like) == Library::Numpy ? "numpy" : "cupy";
      const nb::object of_like = like.attr("dtype");
      const bool bits = nb::cast<std::string>(of_like.attr("name")) != "bfloat16";
      const nb::object type = dtype != DType::Bf16 ? nb::object(nb::str(array_name_of(dtype)))
                              : bits               ? nb::object(nb::str("uint16"))
                                                   : of_like;
      return nb::module_::import_(module).attr("empty")(dims, type);
    }
    default:
      if (device.kind == DeviceKind::Cuda)
        refuse(Errc::Unsupported, "output: its library makes no arrays on ", describe(device),
               " here. Pass the output, as an array of torch or cupy.");
      return nb::cast(make_own_tensor(dtype, shape));
  }
}

}  // namespace switchyard::python
