// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/cublas_library.cc
#include "cuda/cublas_library.h"

#include "base/require.h"
#include "base/shared_library.h"
#include "device/cuda_device.h"

#define SWITCHYARD_TEXT_OF(x) #x
#define SWITCHYARD_TEXT(x) SWITCHYARD_TEXT_OF(x)

namespace switchyard {
namespace cuda {
namespace {

// Functions of one major version; another one's may differ.
constexpr const char* kSoname = "libcublas.so." SWITCHYARD_TEXT(CUBLAS_VER_MAJOR);
constexpr const char* kPackage = "../nvidia/cu" SWITCHYARD_TEXT(CUBLAS_VER_MAJOR) "/lib";

struct Opened {
  SharedLibrary file{{kSoname, kPackage, SWITCHYARD_CUDA_FOLDER}};
  CublasLibrary functions{};

  Opened() {
    file.find("cublasCreate_v2", functions.create);
    file.find("cublasDestroy_v2", functions.destroy);
    file.find("cublasSetStream_v2", functions.set_stream);
    file.find("cublasSetWorkspace_v2", functions.set_workspace);
    file.find("cublasGemmEx", functions.gemm);
    file.find("cublasGemmStridedBatchedEx", functions.gemm_strided_batched);
    file.find("cublasGetStatusName", functions.status_name);
    file.find("cublasGetStatusString", functions.status_string);
  }
};

const Opened& opened() {
  static const Opened once;
  return once;
}

}  // namespace

const CublasLibrary& cublas_library() {
  SWITCHYARD_REQUIRE(opened().file.is_open(), Unsupported, "cublas: ", opened().file.why_not(),
                     ". Install cuBLAS ", CUBLAS_VER_MAJOR,
                     " or name its folder in LD_LIBRARY_PATH, or use hopper.");
  return opened().functions;
}

void check_cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const CublasLibrary& cublas = cublas_library();
  throw Error(Errc::Cuda, cat("cublas: ", what, ", ", cublas.status_name(status), ", ",
                              cublas.status_string(status), ". Is the device healthy and free?"));
}

std::shared_ptr<cublasContext> make_cublas_handle() {
  cublasHandle_t handle = nullptr;
  SWITCHYARD_CUBLAS_CHECK(cublas_library().create(&handle));
  return {handle, [](cublasHandle_t h) { (void)cublas_library().destroy(h); }};
}

}  // namespace cuda

bool has_cublas() {
  return cuda::opened().file.is_open();
}

}  // namespace switchyard
