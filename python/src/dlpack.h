// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/dlpack.h -- the binary interface of DLPack 1.3: what arrays of other libraries look like.
//
// Its structs only, as https://github.com/dmlc/dlpack has them; their layout is frozen by a major
// version.
#pragma once

#include <cstdint>

namespace switchyard::python::dlpack {

inline constexpr uint32_t kMajor = 1;

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3 };
enum TypeCode : uint8_t { kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kFloat8E4m3fn = 10 };

struct Device {
  int32_t type, index;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // elements; null: no gaps (before 1.2)
  uint64_t byte_offset;
};
struct Version {
  uint32_t major, minor;
};

// What a capsule "dltensor" holds.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

// What a capsule "dltensor_versioned" holds.
struct ManagedTensorVersioned {
  static constexpr uint64_t kReadOnly = 1;

  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor tensor;
};

struct ExchangeApiHeader {
  Version version;
  ExchangeApiHeader* previous;
};

// What the capsule "dlpack_exchange_api" of a type points to, for the life of the process. Functions
// return 0, or -1 with a Python exception set.
struct ExchangeApi {
  ExchangeApiHeader header;
  int (*allocate)(Tensor* prototype, ManagedTensorVersioned** out, void* error,
                  void (*set_error)(void* error, const char* kind, const char* message));
  int (*managed_from_object)(void* object, ManagedTensorVersioned** out);
  int (*managed_to_object)(ManagedTensorVersioned* tensor, void** object);
  int (*borrow_from_object)(void* object, Tensor* out);  // may be null
  int (*current_stream)(DeviceType type, int32_t index, void** stream);
};

}  // namespace switchyard::python::dlpack
