// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/measure_device.cc -- what this GPU reaches: bandwidth, matrix products, clock.
#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/backend.h"
#include "base/require.h"
#include "cuda/measure.h"
#include "device/cuda_check.h"
#include "device/cuda_device.h"
#include "device/memory.h"

namespace switchyard {
namespace {

constexpr int kRepeat = 20;
constexpr int64_t kBytes = int64_t{2} << 30;  // past any cache
constexpr int kSide = 8192;

double median_us(Stopwatch& watch, const Enqueue& enqueue) {
  auto us = watch.replay(enqueue, kRepeat, Cache::Warm);
  std::sort(us.begin(), us.end());
  return us[us.size() / 2];
}

// The better of the driver's copy and of a kernel of our own: floors take the fastest seen.
double copy_gbps(void* dst, const void* src, int num_sms, Stopwatch& watch) {
  const double drivers = median_us(watch, [&](cudaStream_t stream) {
    SWITCHYARD_CUDA_CHECK(cudaMemcpyAsync(dst, src, kBytes, cudaMemcpyDeviceToDevice, stream));
  });
  const double ours = median_us(
      watch, [&](cudaStream_t stream) { cuda::copy_all(dst, src, kBytes, num_sms, stream); });
  return 2 * static_cast<double>(kBytes) / std::min(drivers, ours) * 1e-3;
}

double read_gbps(uint32_t* word, const void* src, int num_sms, Stopwatch& watch) {
  const double us = median_us(
      watch, [&](cudaStream_t stream) { cuda::read_all(word, src, kBytes, num_sms, stream); });
  return static_cast<double>(kBytes) / us * 1e-3;
}

// Codes take the place of what `src` holds.
double f8_tflops(void* dst, void* src, Backend& backend, Stopwatch& watch) {
  constexpr int64_t kCodes = int64_t{kSide} * kSide;
  fill_random(Tensor(src, DType::F8E4m3, {2 * kCodes}, DeviceKind::Cuda), 3, -1, 1, F8E4m3::kMax);
  const auto* a = static_cast<const std::byte*>(src);
  return cuda::cublas_lt_f8_tflops(dst, a, a + kCodes, kSide, kRepeat, backend, watch);
}

double sm_clock_mhz(Backend& backend, int64_t* ticks, Stopwatch& watch) {
  cuda::spin_clock(ticks, watch.stream());
  int64_t seen[2] = {};
  copy_to_host(backend, seen, ConstTensor(ticks, {2}, DeviceKind::Cuda), watch.stream());
  return static_cast<double>(seen[0]) / static_cast<double>(seen[1]) * 1e3;
}

// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ..." of the kernel's own file;
// without it the CUDA version that the driver serves.
std::string driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;)
    if (!word.empty() && word[0] >= '1' && word[0] <= '9' &&
        std::count(word.begin(), word.end(), '.') >= 1)
      return word;
  int version = 0;
  SWITCHYARD_CUDA_CHECK(cudaDriverGetVersion(&version));
  return "for CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

DeviceRates measure_cuda_device(Backend& backend) {
  const auto& device = describe_device(DeviceKind::Cuda);
  const auto first = backend.memory().allocate(kBytes), second = backend.memory().allocate(kBytes);
  const auto words = backend.memory().allocate(2 * sizeof(int64_t));
  constexpr int64_t kElements = kBytes / 2;
  fill_random(Tensor(first.get(), DType::Bf16, {kElements}, DeviceKind::Cuda), 1, -1, 1, 1.0f);
  fill_random(Tensor(second.get(), DType::Bf16, {kElements}, DeviceKind::Cuda), 2, -1, 1, 1.0f);
  const auto watch = make_cuda_stopwatch(backend);

  DeviceRates rates;
  rates.name = device.name;
  rates.driver = driver_version();
  rates.read_gbps =
      read_gbps(static_cast<uint32_t*>(words.get()), first.get(), device.num_sms, *watch);
  const auto* a = static_cast<const std::byte*>(first.get());
  const auto* b = a + int64_t{2} * kSide * kSide;
  rates.gemm_tflops = cuda::cublas_tflops(second.get(), a, b, kSide, kRepeat, backend, *watch);
  rates.f8_gemm_tflops = f8_tflops(second.get(), first.get(), backend, *watch);
  rates.sm_clock_mhz = sm_clock_mhz(backend, static_cast<int64_t*>(words.get()), *watch);
  rates.copy_gbps = copy_gbps(second.get(), first.get(), device.num_sms, *watch);
  return rates;
}

double measure_cuda_link(Backend& from, Backend& to, int64_t bytes) {
  const int source = from.memory().ordinal(), target = to.memory().ordinal();
  const std::string why = from.memory().reach(target);
  SWITCHYARD_REQUIRE(why.empty(), Unsupported, "measure_link: ", why,
                     ". Use devices that are linked.");
  to.memory().make_current();
  const auto dst = to.memory().allocate(static_cast<size_t>(bytes));
  from.memory().make_current();
  const auto src = from.memory().allocate(static_cast<size_t>(bytes));
  fill_random(Tensor(src.get(), DType::Bf16, {bytes / 2}, DeviceKind::Cuda), 1, -1, 1, 1.0f);
  const auto watch = make_cuda_stopwatch(from);
  auto us = watch->repeat(
      [&](cudaStream_t stream) {
        SWITCHYARD_CUDA_CHECK(cudaMemcpyPeerAsync(dst.get(), target, src.get(), source,
                                                  static_cast<size_t>(bytes), stream));
      },
      kRepeat, Cache::Warm);
  std::nth_element(us.begin(), us.begin() + kRepeat / 2, us.end());
  return static_cast<double>(bytes) / us[kRepeat / 2] * 1e-3;
}

}  // namespace switchyard
