// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/libraries_test.cc -- cuBLAS and NCCL, opened where they are installed; no GPU needed.
#include <gtest/gtest.h>

#include <string>

#include "cuda/cublas_library.h"
#include "device/cuda_device.h"
#include "switchyard/communicator.h"
#include "testing/error_of.h"

#ifdef SWITCHYARD_HAS_NCCL
#include "comm/nccl_library.h"
#endif

namespace switchyard {
namespace {

TEST(CudaLibraries, CublasIsOpenedWhereItIsInstalled) {
  if (!has_cublas()) GTEST_SKIP() << "no cuBLAS on this machine";
  const cuda::CublasLibrary& cublas = cuda::cublas_library();
  EXPECT_STREQ(cublas.status_name(CUBLAS_STATUS_NOT_SUPPORTED), "CUBLAS_STATUS_NOT_SUPPORTED");
  for (const auto function :
       {reinterpret_cast<void*>(cublas.gemm), reinterpret_cast<void*>(cublas.create)})
    EXPECT_NE(function, nullptr);
}

TEST(CudaLibraries, AStatusOfCublasIsNamed) {
  if (!has_cublas()) GTEST_SKIP() << "no cuBLAS on this machine";
  const std::string text =
      testing::error_of([] {
        SWITCHYARD_CUBLAS_CHECK(cuda::cublas_library().set_stream(nullptr, nullptr));
      }).what();
  EXPECT_NE(text.find("CUBLAS_STATUS_NOT_INITIALIZED"), std::string::npos) << text;
}

#ifdef SWITCHYARD_HAS_NCCL
TEST(CudaLibraries, NcclIsOpenedWhereItIsInstalled) {
  if (!has_nccl()) GTEST_SKIP() << "no NCCL on this machine";
  int version = 0;
  ASSERT_EQ(nccl_library().get_version(&version), ncclSuccess);
  EXPECT_GE(version, 21900);
  EXPECT_TRUE(std::string(nccl_library().error_string(ncclInvalidArgument))
                  .starts_with("invalid argument"));
}
#endif

}  // namespace
}  // namespace switchyard
