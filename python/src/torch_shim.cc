// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/torch_shim.cc -- where the functions of libtorch are.
#include "torch_shim.h"

#include <dlfcn.h>

namespace switchyard::python::torch_shim {
namespace {

// Python loads libtorch with its names to itself; it is never unloaded.
void* loaded(const char* library) {
  return dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = library != nullptr ? reinterpret_cast<Function>(dlsym(library, name)) : nullptr;
  return function != nullptr;
}

class Finder {
 public:
  explicit Finder(void* library) : library_(library) {}

  template <class Function>
  Finder& operator()(const char* name, Function& function) {
    if (!find(library_, name, function) && missing_.empty()) missing_ = name;
    return *this;
  }
  // What a function without arguments returns.
  Finder& constant(const char* name, int32_t& value) {
    int32_t (*function)() = nullptr;
    (*this)(name, function);
    if (function != nullptr) value = function();
    return *this;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* library_;
  std::string missing_;
};

}  // namespace

std::string load(Functions& f) {
  void* const cpu = loaded("libtorch_cpu.so");
  if (cpu == nullptr) return "libtorch_cpu.so";
  Finder finder(cpu);
  finder("aoti_torch_library_init_impl", f.library_init_impl)("torch_library_impl", f.library_impl)(
      "torch_call_dispatcher", f.call_dispatcher)("aoti_torch_grad_mode_is_enabled",
                                                  f.grad_mode_is_enabled);
  finder("aoti_torch_get_data_ptr", f.get_data_ptr)("aoti_torch_get_dim", f.get_dim)(
      "aoti_torch_get_sizes", f.get_sizes)("aoti_torch_get_strides", f.get_strides)(
      "aoti_torch_get_dtype", f.get_dtype)("aoti_torch_get_device_type", f.get_device_type)(
      "aoti_torch_get_device_index", f.get_device_index)(
      "aoti_torch_delete_tensor_object", f.delete_tensor)("aoti_torch_empty_strided",
                                                          f.empty_strided);
  finder("aoti_torch_new_tensor_handle", f.new_handle);
  finder("torch_string_length", f.string_length)("torch_string_c_str", f.string_c_str)(
      "torch_delete_string", f.delete_string)("torch_list_size", f.list_size)(
      "torch_list_get_item", f.list_get_item)("torch_delete_list", f.delete_list);
  finder.constant("aoti_torch_device_type_cpu", f.cpu)
      .constant("aoti_torch_device_type_cuda", f.cuda)
      .constant("aoti_torch_dtype_bfloat16", f.bf16)
      .constant("aoti_torch_dtype_float32", f.f32)
      .constant("aoti_torch_dtype_int32", f.i32)
      .constant("aoti_torch_dtype_int64", f.i64)
      .constant("aoti_torch_dtype_float8_e4m3fn", f.f8_e4m3);
  find(loaded("libtorch_cuda.so"), "aoti_torch_get_current_cuda_stream", f.current_cuda_stream);
  find(cpu, "torch_delete_stable_ivalue", f.delete_value);
  return finder.missing();
}

bool gradients_are_off() {
  using Enabled = bool (*)();
  static const Enabled enabled = [] {
    Enabled found = nullptr;
    find(loaded("libtorch_cpu.so"), "aoti_torch_grad_mode_is_enabled", found);
    return found;
  }();
  return enabled != nullptr && !enabled();
}

}  // namespace switchyard::python::torch_shim
