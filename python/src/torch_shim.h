// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/torch_shim.h -- the stable C interface of libtorch, found in the process that has loaded it.
//
// Names, arguments and meanings are those of torch/csrc/stable/c/shim.h and of
// torch/csrc/inductor/aoti_torch/c/shim.h, which do not change from release to release.
#pragma once

#include <cstdint>
#include <string>

namespace switchyard::python::torch_shim {

struct TensorOpaque;
struct LibraryOpaque;
struct StringOpaque;
struct ListOpaque;
using TensorHandle = TensorOpaque*;
using LibraryHandle = LibraryOpaque*;
using StringHandle = StringOpaque*;
using ListHandle = ListOpaque*;

// A number, a handle, or a pointer to a Value for what is optional; null for none.
using Value = uint64_t;
using Kernel = void (*)(Value* stack, uint64_t inputs, uint64_t outputs);

// The interface that values follow: of torch 2.11, the oldest that is supported.
inline constexpr uint64_t kAbiVersion = 0x020b'0000'0000'0000;

struct Functions {
  // Functions return 0, or another number after an error, which they have logged.
  int32_t (*library_init_impl)(const char* name, const char* key, const char* file, uint32_t line,
                               LibraryHandle* made);
  int32_t (*library_impl)(LibraryHandle library, const char* name, Kernel kernel, uint64_t abi);
  int32_t (*call_dispatcher)(const char* name, const char* overload, Value* stack, uint64_t abi);
  bool (*grad_mode_is_enabled)();
  int32_t (*get_data_ptr)(TensorHandle tensor, void** data);
  int32_t (*get_dim)(TensorHandle tensor, int64_t* dim);
  int32_t (*get_sizes)(TensorHandle tensor, int64_t** sizes);
  int32_t (*get_strides)(TensorHandle tensor, int64_t** strides);
  int32_t (*get_dtype)(TensorHandle tensor, int32_t* dtype);
  int32_t (*get_device_type)(TensorHandle tensor, int32_t* type);
  int32_t (*get_device_index)(TensorHandle tensor, int32_t* index);
  int32_t (*new_handle)(TensorHandle tensor, TensorHandle* made);
  int32_t (*delete_tensor)(TensorHandle tensor);
  int32_t (*empty_strided)(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                           int32_t device_type, int32_t device_index, TensorHandle* made);
  int32_t (*string_length)(StringHandle text, size_t* length);
  int32_t (*string_c_str)(StringHandle text, const char** data);
  int32_t (*delete_string)(StringHandle text);
  int32_t (*list_size)(ListHandle list, size_t* size);
  int32_t (*list_get_item)(ListHandle list, size_t index, Value* item);
  int32_t (*delete_list)(ListHandle list);
  // Null where torch has no CUDA.
  int32_t (*current_cuda_stream)(int32_t device_index, void** stream) = nullptr;
  // Null before torch 2.13, where operator delete frees a Value.
  int32_t (*delete_value)(Value* value) = nullptr;

  int32_t cpu, cuda;  // device types
  int32_t bf16, f32, i32, i64, f8_e4m3;
};

// Finds them in libtorch, which the process has loaded. Returns "", or what is missing.
std::string load(Functions& functions);

// Whether torch, which is loaded, says so; false where it has no such function.
bool gradients_are_off();

}  // namespace switchyard::python::torch_shim
