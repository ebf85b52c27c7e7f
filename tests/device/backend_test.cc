// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/device/backend_test.cc -- what callers who see only the name Backend can do with one; and what
// a build without CUDA says of it.
#include "switchyard/backend.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "device/stopwatch.h"
#include "switchyard/error.h"
#include "switchyard/measure.h"

namespace switchyard {
namespace {

TEST(BackendOfCpus, CopiesWhatItIsGivenIntoItsMemoryAndBack) {
  const auto backend = make_cpu_backend({.num_threads = 1});
  const auto memory = allocate(*backend, 64 * sizeof(int32_t));
  ASSERT_NE(memory, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % Workspace::kAlignment, 0u);
  std::vector<int32_t> there(64), back(64, -1);
  std::iota(there.begin(), there.end(), 5);
  const Tensor tensor(static_cast<int32_t*>(memory.get()), {8, 8});
  make_current(*backend);
  EXPECT_EQ(make_stream(*backend), nullptr) << "work runs at once";
  copy_to_device(*backend, tensor, there.data());
  copy_to_host(*backend, back.data(), tensor.rows(2, 3));
  EXPECT_TRUE(std::equal(back.begin(), back.begin() + 24, there.begin() + 16));
  EXPECT_EQ(back[24], -1);
}

TEST(BackendOfCpus, IsDescribedByWhatTheMachineHas) {
  const DeviceDescription& cpu = describe_device(DeviceKind::Cpu);
  EXPECT_EQ(cpu.kind, DeviceKind::Cpu);
  EXPECT_NE(cpu.name.find(" cores"), std::string::npos) << cpu.name;
  EXPECT_GT(cpu.memory_bytes, 1 << 20);
  EXPECT_GT(cpu.read_gbps, 0);
  EXPECT_GT(cpu.gemm_gflops, 0);
}

TEST(BuildWithoutCuda, RefusesEachUseOfIt) {
  const DeviceDescription& cuda = describe_device(DeviceKind::Cuda);
  if (cuda.unavailable_reason.find("no CUDA kernels") == std::string::npos)
    GTEST_SKIP() << "this build has CUDA";
  const auto cpu = make_cpu_backend({.num_threads = 1});
  const auto refused = [&](const char* operation, const std::function<void()>& use) {
    try {
      use();
      ADD_FAILURE() << operation << " was not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::Unsupported);
      EXPECT_EQ(std::string(e.what()), std::string(operation) + ": device=cuda, " +
                                           cuda.unavailable_reason + ". Use the CPU.");
    }
  };
  refused("make_cuda_backend", [] { make_cuda_backend({}); });
  refused("measure_forward", [&] { make_cuda_stopwatch(*cpu); });
}

}  // namespace
}  // namespace switchyard
