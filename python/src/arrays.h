// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/arrays.h -- arrays of numpy, torch, cupy, jax and whatever speaks DLPack, as views.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "switchyard/linear_attention.h"
#include "switchyard/tensor.h"

namespace nb = nanobind;

namespace switchyard::python {

// An argument that takes any array; None is no array.
class Array : public nb::object {
  static bool any(PyObject*) { return true; }

 public:
  NB_OBJECT_DEFAULT(Array, nb::object, "switchyard._array.Array", any)
};

// An argument that may be left away, and its array or None.
using Optional = std::optional<Array>;
inline nb::handle handle_of(const Optional& array) {
  return array ? nb::handle(*array) : nb::none();
}

// Who made an array.
enum class Library { None, Numpy, Torch, Cupy, Jax, Own, Other };
Library library_of(nb::handle array);

struct DeviceIndex {
  DeviceKind kind = DeviceKind::Cpu;
  int index = 0;

  bool operator==(const DeviceIndex&) const = default;
};
std::string describe(DeviceIndex device);  // "cpu", "cuda:1"

enum class Access { Read, Write };
enum class Keep {
  ForTheCall,  // the caller's reference keeps the memory
  Always,      // `owner` does
};

// The memory of an array.
struct ArrayView {
  bool present = false;
  void* data = nullptr;
  DType dtype = DType::F32;
  int rank = 0;
  std::array<int64_t, Shape::kMaxRank> shape{};
  std::array<int64_t, Shape::kMaxRank> strides{};  // elements
  DeviceIndex device;
  std::shared_ptr<void> owner = nullptr;

  Shape extent() const;
  bool has_gaps() const;
};

// Of a view without gaps.
Tensor tensor_of(const ArrayView& view);

// What errors call an argument: "forward: hidden ...".
struct Argument {
  const char* operation;
  const char* name;
};

// None gives a view that is not present. Throws Error(ShapeMismatch or Unsupported) for arrays that
// no operation takes, TypeError for what is no array, and what the array's library throws.
ArrayView view_of(nb::handle array, Argument argument, Access access, Keep keep);

// Reads the arrays of one call, which must all be on `device`.
class CallArrays {
 public:
  CallArrays(const char* operation, DeviceIndex device) : operation_(operation), device_(device) {}

  ConstTensor read(const char* name, nb::handle array);
  // Rows with gaps between them: `stride` becomes the elements from one to the next.
  ConstTensor read_rows(const char* name, nb::handle array, int64_t& stride);
  Tensor write(const char* name, nb::handle array);
  Tensor write_rows(const char* name, nb::handle array, int64_t& stride);
  ConstStridedTensor read_strided(const char* name, nb::handle array);
  StridedTensor write_strided(const char* name, nb::handle array);
  Workspace workspace(const char* name, nb::handle array);

 private:
  ArrayView view(const char* name, nb::handle array, Access access);

  const char* operation_;
  DeviceIndex device_;
  std::vector<std::shared_ptr<void>> owners_;  // of arrays that were made for the call
};

// Where the library of `array` puts its work: torch's and cupy's current stream, the default stream
// of others; null on a CPU.
CUstream_st* current_stream(nb::handle array, DeviceIndex device);
// The stream that was given as a number, else the current one of the library of `array`.
using StreamAddress = std::optional<uintptr_t>;
inline CUstream_st* stream_of(const StreamAddress& given, nb::handle array, DeviceIndex device) {
  return given ? reinterpret_cast<CUstream_st*>(*given) : current_stream(array, device);
}

// A new array of the library and on the device of `like`; of Tensor's own type where that library
// has no arrays that may be written. Rows of numpy are bf16 as those of `like` are: ml_dtypes', or
// the bits as uint16.
nb::object new_array(nb::handle like, DType dtype, Shape shape, DeviceIndex device);

}  // namespace switchyard::python
