// cli/machine.cc
#include "machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

namespace switchyard::cli {
namespace {

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void on_threads(int num_threads, const std::function<void(int)>& f) {
  std::vector<std::jthread> threads;
  for (int t = 1; t < num_threads; ++t) threads.emplace_back(f, t);
  f(0);
}

// Keeps a value alive without storing it anywhere that matters.
std::atomic<float> sink;

#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
// The widest registers of the machine at run time; sanitizers do not survive the resolver.
#define SWITCHYARD_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SWITCHYARD_CLONES
#endif

using Wide = float __attribute__((vector_size(64)));
using Words = uint64_t __attribute__((vector_size(64)));

// 12 independent chains of 16 lanes: enough for a latency of 4 on two units. Returns what it
// computed.
SWITCHYARD_CLONES float multiply_add(int64_t rounds) {
  Wide a[12];
  for (int i = 0; i < 12; ++i) a[i] = Wide{} + static_cast<float>(i);
  const Wide m = Wide{} + 0.999f, c = Wide{} + 0.001f;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) a[i] = a[i] * m + c;
  Wide sum{};
  for (const Wide& v : a) sum += v;
  return sum[0];
}

SWITCHYARD_CLONES uint64_t sum_words(const uint64_t* data, int64_t count) {
  Words sums[4] = {};
  const auto* wide = reinterpret_cast<const Words*>(data);
  for (int64_t i = 0; i + 4 <= count / 8; i += 4)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums[j] += wide[i + j];
  const Words sum = sums[0] + sums[1] + sums[2] + sums[3];
  return sum[0] + sum[7];
}

double measure_fma(int num_threads) {
  constexpr int64_t kRounds = 4'000'000;
  double best = 1e30;
  for (int i = 0; i < 3; ++i)
    best = std::min(best, seconds_of([&] {
                      on_threads(num_threads, [](int) { sink = multiply_add(kRounds); });
                    }));
  return 2.0 * 16 * 12 * kRounds * num_threads / best * 1e-9;
}

double measure_read(int num_threads) {
  constexpr int64_t kBytes = int64_t{512} << 20;  // past any cache
  constexpr int64_t kWords = kBytes / 8;
  const std::unique_ptr<uint64_t, decltype(&std::free)> data(
      static_cast<uint64_t*>(std::aligned_alloc(64, kBytes)), std::free);
  if (data == nullptr) return 0;
  std::fill_n(data.get(), kWords, 1);
  double best = 1e30;
  for (int i = 0; i < 5; ++i)
    best = std::min(best, seconds_of([&] {
                      on_threads(num_threads, [&](int t) {
                        const int64_t share = kWords / num_threads / 64 * 64;
                        sink = static_cast<float>(sum_words(data.get() + t * share, share));
                      });
                    }));
  return static_cast<double>(kBytes) / best * 1e-9;
}

}  // namespace

MachineRates measure_machine(int num_threads) {
  return {measure_read(num_threads), measure_fma(num_threads)};
}

}  // namespace switchyard::cli
