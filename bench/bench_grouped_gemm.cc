// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/bench_grouped_gemm.cc -- the CPU's grouped GEMM beside OpenBLAS and the machine's memory.
//
//   rows  experts  N  K  us  floor us  GFLOP/s  sgemm  of sgemm  GB/s  of read
//
// The floor is of the machine's widest fp32 multiply-adds, whatever instruction set is pinned; the
// dot product of bf16 pairs can be faster than it.
// sgemm is given fp32 weights, converted beforehand, and one call per expert; ours reads bf16. A
// result is checked against the plain form before it is timed. Medians.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "cpu/grouped_gemm.h"
#include "cpu/instruction_set.h"
#include "machine.h"
#include "openblas.h"

namespace switchyard::bench {
namespace {

struct Shape4 {
  int64_t rows_per_expert, num_experts, n, k;
};

void time_calls(const std::function<void()>& f, double seconds, std::vector<double>& us) {
  using Clock = std::chrono::steady_clock;
  // OpenBLAS's idle threads spin for 2^26 ticks before they sleep.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  f();
  const auto begin = Clock::now();
  auto now = begin;
  do {
    const auto start = now;
    f();
    now = Clock::now();
    us.push_back(std::chrono::duration<double, std::micro>(now - start).count());
  } while (now - begin < std::chrono::duration<double>(seconds));
}

double median(std::vector<double>& us) {
  if (us.empty()) return 0;
  const auto middle = us.begin() + static_cast<int64_t>(us.size() / 2);
  std::nth_element(us.begin(), middle, us.end());
  return *middle;
}

struct Medians {
  double ours_us, sgemm_us;
};

// In turns, so that what else runs on the machine slows both; within a turn the caches are one's
// own.
Medians time_in_turns(double seconds, const std::function<void()>& ours,
                      const std::function<void()>& sgemm) {
  constexpr int kTurns = 5;
  std::vector<double> ours_us, sgemm_us;
  for (int turn = 0; turn < kTurns; ++turn) {
    time_calls(ours, seconds / kTurns, ours_us);
    if (have_sgemm()) time_calls(sgemm, seconds / kTurns, sgemm_us);
  }
  return {median(ours_us), median(sgemm_us)};
}

// Operands of one shape; random, as zeros multiply faster on some machines.
class Problem {
 public:
  explicit Problem(const Shape4& s)
      : shape_(s),
        src_(static_cast<size_t>(s.num_experts * s.rows_per_expert * s.k)),
        weights_(static_cast<size_t>(s.num_experts * s.n * s.k)),
        dst_(static_cast<size_t>(s.num_experts * s.rows_per_expert * s.n)),
        counts_(static_cast<size_t>(s.num_experts), static_cast<int32_t>(s.rows_per_expert)),
        first_row_(static_cast<size_t>(s.num_experts + 1)) {
    uint64_t state = 88172645463325252u;
    const auto fill = [&](std::vector<Bf16>& values) {
      for (auto& v : values) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        v = Bf16(static_cast<float>(static_cast<int64_t>(state >> 40)) * 0x1p-23f - 1.0f);
      }
    };
    fill(src_);
    fill(weights_);
    for (int64_t e = 0; e <= s.num_experts; ++e)
      first_row_[static_cast<size_t>(e)] = e * s.rows_per_expert;
  }

  GroupedGemm gemm() {
    GroupedGemm g;
    const int64_t rows = shape_.num_experts * shape_.rows_per_expert;
    g.dst = Tensor(dst_.data(), {rows, shape_.n});
    g.src = ConstTensor(std::as_const(src_).data(), {rows, shape_.k});
    g.weights =
        ConstTensor(std::as_const(weights_).data(), {shape_.num_experts, shape_.n, shape_.k});
    g.groups = {Tensor(counts_.data(), {shape_.num_experts}),
                Tensor(first_row_.data(), {shape_.num_experts + 1})};
    g.max_rows = rows;
    return g;
  }

  // Relative L2 error of some elements against the definition.
  double error() const {
    double error = 0, norm = 0;
    std::mt19937_64 rng(1);
    for (int i = 0; i < 200; ++i) {
      const int64_t rows = shape_.num_experts * shape_.rows_per_expert;
      const auto r = static_cast<int64_t>(rng() % static_cast<uint64_t>(rows));
      const auto j = static_cast<int64_t>(rng() % static_cast<uint64_t>(shape_.n));
      const int64_t e = r / shape_.rows_per_expert;
      double sum = 0;
      for (int64_t k = 0; k < shape_.k; ++k)
        sum += double{static_cast<float>(src_[static_cast<size_t>(r * shape_.k + k)])} *
               double{static_cast<float>(
                   weights_[static_cast<size_t>((e * shape_.n + j) * shape_.k + k)])};
      const double got = static_cast<float>(dst_[static_cast<size_t>(r * shape_.n + j)]);
      error += (got - sum) * (got - sum);
      norm += sum * sum;
    }
    return std::sqrt(error / norm);
  }

  // Operands of sgemm: fp32 copies of the same.
  std::function<void()> sgemm_call() const {
    const auto widen = [](const std::vector<Bf16>& values) {
      return std::vector<float>(values.begin(), values.end());
    };
    return [shape = shape_, src = widen(src_), weights = widen(weights_),
            dst = std::vector<float>(dst_.size())]() mutable {
      const int64_t m = shape.rows_per_expert;
      for (int64_t e = 0; e < shape.num_experts; ++e)
        sgemm(dst.data() + e * m * shape.n, src.data() + e * m * shape.k,
              weights.data() + e * shape.n * shape.k, m, shape.n, shape.k);
    };
  }

  double flops() const {
    return 2.0 * static_cast<double>(dst_.size()) * static_cast<double>(shape_.k);
  }
  double bytes() const {
    return 2.0 * static_cast<double>(src_.size() + weights_.size() + dst_.size());
  }

 private:
  Shape4 shape_;
  std::vector<Bf16> src_, weights_, dst_;
  std::vector<int32_t> counts_;
  std::vector<int64_t> first_row_;
};

int run(int num_threads, double seconds, const std::string& json_file) {
  const auto machine = cli::measure_machine(num_threads);
  set_sgemm_threads(num_threads);
  cpu::ThreadPool pool(num_threads);
  fmt::print(
      "{} threads, {}, BLAS {}; {:.1f} GB/s of reads, {:.0f} GFLOP/s of fp32 multiply-adds "
      "measured\n\n",
      num_threads, cpu::instruction_set(), sgemm_name(), machine.read_gbps, machine.fma_gflops);
  fmt::print("{:>5} {:>8} {:>6} {:>6} {:>10} {:>9} {:>8} {:>9} {:>9} {:>7} {:>8}\n", "rows",
             "experts", "N", "K", "us", "floor us", "GFLOP/s", "sgemm", "of sgemm", "GB/s",
             "of read");
  auto json = nlohmann::json::array();
  // One row: 300 MB of weights, past any cache. From 128 rows: enough experts to level threads out.
  for (const Shape4& s :
       {Shape4{1, 96, 1536, 1024}, Shape4{1, 10, 7168, 2048}, Shape4{4, 32, 1536, 2048},
        Shape4{16, 16, 1536, 2048}, Shape4{32, 8, 1536, 2048}, Shape4{128, 8, 1536, 2048},
        Shape4{128, 8, 2048, 768}, Shape4{256, 4, 1536, 2048}, Shape4{256, 4, 2048, 768},
        Shape4{256, 2, 2880, 2880}, Shape4{512, 2, 4096, 7168}}) {
    Problem p(s);
    const auto gemm = p.gemm();
    cpu::grouped_gemm_fast(gemm, pool);
    if (!(p.error() < 5e-3))
      return fmt::print(stderr, "bench_grouped_gemm: error {}, not timed\n", p.error()), 1;
    const auto [us, sgemm_us] = time_in_turns(
        seconds, [&] { cpu::grouped_gemm_fast(gemm, pool); }, p.sgemm_call());
    const double gflops = p.flops() / us * 1e-3, gbps = p.bytes() / us * 1e-3;
    const double floor_us =
        std::max(p.flops() / machine.fma_gflops, p.bytes() / machine.read_gbps) * 1e-3;
    const auto rate =
        have_sgemm() ? fmt::format("{:.0f}", p.flops() / sgemm_us * 1e-3) : "not built";
    const auto ratio = have_sgemm() ? fmt::format("{:.0f} %", 100 * sgemm_us / us) : "-";
    fmt::print(
        "{:>5} {:>8} {:>6} {:>6} {:>10.0f} {:>9.0f} {:>8.0f} {:>9} {:>9} {:>7.1f} {:>6.0f} %\n",
        s.rows_per_expert, s.num_experts, s.n, s.k, us, floor_us, gflops, rate, ratio, gbps,
        100 * gbps / machine.read_gbps);
    std::fflush(stdout);
    json.push_back({{"rows", s.rows_per_expert},
                    {"experts", s.num_experts},
                    {"n", s.n},
                    {"k", s.k},
                    {"us", us},
                    {"floor_us", floor_us},
                    {"gflops", gflops},
                    {"sgemm_us", sgemm_us},
                    {"gbps", gbps}});
  }
  if (!json_file.empty())
    std::ofstream(json_file) << nlohmann::json{{"threads", num_threads},
                                               {"target", cpu::instruction_set()},
                                               {"blas", sgemm_name()},
                                               {"read_gbps", machine.read_gbps},
                                               {"fma_gflops", machine.fma_gflops},
                                               {"rows", json}}
                                    .dump(2)
                             << "\n";
  return 0;
}

}  // namespace
}  // namespace switchyard::bench

int main(int argc, char** argv) {
  CLI::App app{"The CPU's grouped GEMM beside OpenBLAS sgemm and the machine's read bandwidth"};
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  double seconds = 0.5;
  std::string json, target;
  bool list = false;
  app.add_option("--threads", threads, "Of both");
  app.add_option("--seconds", seconds, "Spent on each time");
  app.add_option("--json", json, "Also write the rows to this file");
  const auto targets = switchyard::cpu::instruction_sets();
  app.add_option("--target", target, "Instruction set of ours; default: the first")
      ->check(CLI::IsMember(targets));
  app.add_flag("--list-targets", list, "Print the instruction sets of this machine, best first");
  CLI11_PARSE(app, argc, argv);
  if (list) return fmt::print("{}\n", fmt::join(targets, "\n")), 0;
  if (!target.empty()) switchyard::cpu::pin_instruction_set(target);
  return switchyard::bench::run(threads, seconds, json);
}
