// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/load_kernels.cc
#include "cuda/load_kernels.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <vector>

#include "device/cuda_check.h"

namespace switchyard::cuda {
namespace {

std::vector<const void*>& noted() {
  static std::vector<const void*> kernels;
  return kernels;
}

// The driver's functions, asked for through the runtime so that libcuda need not be linked.
template <class Function>
Function driver(const char* name, unsigned version) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found{};
  SWITCHYARD_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion(name, &address, version, cudaEnableDefault, &found));
  SWITCHYARD_REQUIRE(found == cudaDriverEntryPointSuccess, Unsupported,
                     "load_kernels: the driver has no ", name,
                     ", several ranks need it. Use driver 550 or later.");
  return reinterpret_cast<Function>(address);
}

void check_driver(const char* name, CUresult code) {
  SWITCHYARD_REQUIRE(code == CUDA_SUCCESS, Cuda, "load_kernels: ", name, "=",
                     static_cast<int>(code), ". Is the device healthy and free?");
}

}  // namespace

bool note_module(const void* kernel) {
  noted().push_back(kernel);
  return true;
}

void load_kernels() {
  const auto module_of = driver<PFN_cuFuncGetModule_v11000>("cuFuncGetModule", 11000);
  const auto count_of =
      driver<PFN_cuModuleGetFunctionCount_v12040>("cuModuleGetFunctionCount", 12040);
  const auto functions_of =
      driver<PFN_cuModuleEnumerateFunctions_v12040>("cuModuleEnumerateFunctions", 12040);
  const auto load = driver<PFN_cuFuncLoad_v12040>("cuFuncLoad", 12040);
  for (const void* kernel : noted()) {
    cudaFunction_t function = nullptr;
    SWITCHYARD_CUDA_CHECK(cudaGetFuncBySymbol(&function, kernel));
    CUmodule module = nullptr;
    check_driver("cuFuncGetModule", module_of(&module, function));
    unsigned count = 0;
    check_driver("cuModuleGetFunctionCount", count_of(&count, module));
    std::vector<CUfunction> functions(count);
    check_driver("cuModuleEnumerateFunctions", functions_of(functions.data(), count, module));
    for (CUfunction f : functions) check_driver("cuFuncLoad", load(f));
  }
}

}  // namespace switchyard::cuda
