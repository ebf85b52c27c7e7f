// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
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

using Floats4 = float __attribute__((vector_size(16)));
using Floats8 = float __attribute__((vector_size(32)));
using Floats16 = float __attribute__((vector_size(64)));
using Words2 = uint64_t __attribute__((vector_size(16)));
using Words4 = uint64_t __attribute__((vector_size(32)));
using Words8 = uint64_t __attribute__((vector_size(64)));

// 12 independent chains: enough for a latency of 4 on two units, and with two operands inside 16
// registers. Returns what it computed.
template <class Vector>
[[gnu::always_inline]] inline float multiply_add(int64_t rounds) {
  Vector a[12];
  for (int i = 0; i < 12; ++i) a[i] = Vector{} + static_cast<float>(i + 2);  // 1 stays 1
  const Vector m = Vector{} + 0.999f, c = Vector{} + 0.001f;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) a[i] = a[i] * m + c;
  Vector sum{};
  for (const Vector& v : a) sum += v;
  return sum[0];
}

template <class Vector>
[[gnu::always_inline]] inline uint64_t sum_words(const uint64_t* data, int64_t count) {
  Vector sums[8] = {};
  const auto* wide = reinterpret_cast<const Vector*>(data);
  const auto num_vectors = count / static_cast<int64_t>(sizeof(Vector) / sizeof(uint64_t));
  for (int64_t i = 0; i + 8 <= num_vectors; i += 8)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sums[j] += wide[i + j];
  Vector sum{};
  for (const Vector& v : sums) sum += v;
  return sum[0] + sum[sizeof(Vector) / sizeof(uint64_t) - 1];
}

// One set of registers: vectors that the compiler has to split become scalars.
struct Kernels {
  int64_t lanes;  // floats of a vector
  float (*multiply_add)(int64_t);
  uint64_t (*sum_words)(const uint64_t*, int64_t);
};

float multiply_add_128(int64_t rounds) {
  return multiply_add<Floats4>(rounds);
}
uint64_t sum_words_128(const uint64_t* data, int64_t count) {
  return sum_words<Words2>(data, count);
}

#ifdef __x86_64__
[[gnu::target("avx2,fma")]] float multiply_add_256(int64_t rounds) {
  return multiply_add<Floats8>(rounds);
}
[[gnu::target("avx2,fma")]] uint64_t sum_words_256(const uint64_t* data, int64_t count) {
  return sum_words<Words4>(data, count);
}
[[gnu::target("avx512f")]] float multiply_add_512(int64_t rounds) {
  return multiply_add<Floats16>(rounds);
}
[[gnu::target("avx512f")]] uint64_t sum_words_512(const uint64_t* data, int64_t count) {
  return sum_words<Words8>(data, count);
}
#endif

Kernels widest_kernels() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f")) return {16, multiply_add_512, sum_words_512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return {8, multiply_add_256, sum_words_256};
#endif
  return {4, multiply_add_128, sum_words_128};
}

double measure_fma(int num_threads) {
  constexpr int64_t kRounds = 4'000'000;
  const Kernels kernels = widest_kernels();
  double best = 1e30;
  for (int i = 0; i < 3; ++i)
    best = std::min(best, seconds_of([&] {
                      on_threads(num_threads, [&](int) { sink = kernels.multiply_add(kRounds); });
                    }));
  return 2.0 * 12 * static_cast<double>(kernels.lanes * kRounds * num_threads) / best * 1e-9;
}

double measure_read(int num_threads) {
  constexpr int64_t kBytes = int64_t{512} << 20;  // past any cache
  constexpr int64_t kWords = kBytes / 8;
  const std::unique_ptr<uint64_t, decltype(&std::free)> data(
      static_cast<uint64_t*>(std::aligned_alloc(64, kBytes)), std::free);
  if (data == nullptr) return 0;
  std::fill_n(data.get(), kWords, 1);
  const Kernels kernels = widest_kernels();
  double best = 1e30;
  for (int i = 0; i < 5; ++i)
    best = std::min(best, seconds_of([&] {
                      on_threads(num_threads, [&](int t) {
                        const int64_t share = kWords / num_threads / 64 * 64;
                        sink = static_cast<float>(kernels.sum_words(data.get() + t * share, share));
                      });
                    }));
  return static_cast<double>(kBytes) / best * 1e-9;
}

}  // namespace

MachineRates measure_machine(int num_threads) {
  return {measure_read(num_threads), measure_fma(num_threads)};
}

}  // namespace switchyard::cli
