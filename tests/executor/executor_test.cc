// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/executor/executor_test.cc -- the executor test cases of the reference system, and what they
// left out.
#include <gtest/gtest.h>

#include <optional>

#include "base/status.h"
#include "plan/buffers.h"
#include "switchyard/executor.h"
#include "switchyard/oracle.h"
#include "testing/cpu_ops.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::Skew;

struct Problem {
  MoeConfig config;  // global
  int num_ranks = 1;
  int rank = 0;
  LayerWeights weights;
  Buffer<Bf16> rows;
  Buffer<int32_t> ids;  // local
  Buffer<float> router_weights;
  Buffer<int32_t> num_rows{Shape{1}};
  std::optional<RowSource> source{};  // absent: `rows`

  int64_t local_experts() const { return config.num_experts / num_ranks; }
  ReceivedRows received() const {
    return {source.value_or(RowSource{rows.view()}), ids.view(), router_weights.view(),
            num_rows.view()};
  }
};

MoeConfig reference_config() {
  MoeConfig config;
  config.hidden = 2048;
  config.intermediate = 768;
  config.num_experts = 8;
  config.top_k = 4;
  return config;
}

Problem make_problem(const MoeConfig& config, int num_ranks, int rank, int64_t num_rows,
                     Skew skew) {
  Problem p{config, num_ranks, rank, random_weights(config, num_ranks, rank, 42), {}, {}, {}};
  p.rows = testing::random_bf16({num_rows, config.hidden}, 1);
  p.router_weights = testing::random_f32({num_rows, config.top_k}, 2, 0.05f, 1.0f);
  p.ids = testing::random_ids(num_rows, config.num_experts, config.top_k, skew, 3);
  const auto first = static_cast<int32_t>(rank * p.local_experts());
  for (int64_t i = 0; i < p.ids.count(); ++i) {
    const int32_t local = p.ids[i] - first;
    p.ids[i] = p.ids[i] >= 0 && local >= 0 && local < p.local_experts() ? local : -1;
  }
  p.num_rows[0] = static_cast<int32_t>(num_rows);
  return p;
}

struct Run {
  Buffer<Bf16> out;
  StatusWords status;
};

Run run(const Problem& p, const ExecutorOptions& options, const std::shared_ptr<Backend>& backend) {
  auto executor = make_executor(p.config, options, p.weights.experts, p.num_ranks, p.rank, backend);
  const int64_t max_rows = p.ids.view().dim(0);
  Buffer<int32_t> memory({static_cast<int64_t>(executor->workspace_bytes(max_rows) / 4) + 64});
  auto address = reinterpret_cast<uintptr_t>(memory.data());
  address = (address + 127) / 128 * 128;
  Run result{Buffer<Bf16>({p.rows.view().dim(0), p.config.hidden}), {}};
  Buffer<int32_t> status({kStatusWords});
  for (int64_t i = 0; i < kStatusWords; ++i) status[i] = 0;
  const auto sums =
      executor->execute(p.received(), max_rows,
                        {reinterpret_cast<void*>(address), executor->workspace_bytes(max_rows)},
                        status.view(), nullptr);
  sum_rows(*backend, result.out.view(), sums, p.received());
  EXPECT_TRUE(memory.guards_intact());
  EXPECT_TRUE(result.out.guards_intact());
  result.status = *status.view().as<StatusWords>();
  return result;
}

// Every stride-th row against float64: the local experts are a layer of their own.
Difference difference(const Problem& p, const Run& r, int64_t stride) {
  MoeConfig local = p.config;
  local.num_experts = p.local_experts();
  local.top_k = p.config.top_k;
  const int64_t k = p.config.top_k, h = p.config.hidden, n = ceil_div(p.num_rows[0], stride);
  Buffer<Bf16> x({n, h}), out({n, h});
  Buffer<int32_t> ids({n, k});
  Buffer<float> weights({n, k});
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(p.rows.data() + i * stride * h, h, x.data() + i * h);
    std::copy_n(r.out.data() + i * stride * h, h, out.data() + i * h);
    std::copy_n(p.ids.data() + i * stride * k, k, ids.data() + i * k);
    std::copy_n(p.router_weights.data() + i * stride * k, k, weights.data() + i * k);
  }
  Buffer<double> expected({n, h});
  LayerWeights weights_local = p.weights;
  weights_local.router = {};
  oracle_forward(expected.view(), local, weights_local, x.view(), ids.view(), weights.view());
  return compare(out.view(), expected.view());
}

ExecutorOptions options_of(ExecutorKind kind) {
  ExecutorOptions options;
  options.kind = kind;
  return options;
}

TEST(ReferenceCases, HybridMatchesFloat64InBothLayoutsAsRanksZeroAndOne) {
  auto backend = make_cpu_backend(2);
  for (const int num_ranks : {1, 2})
    for (int rank = 0; rank < num_ranks; ++rank)
      for (const int64_t num_rows : {128, 512}) {
        const auto p = make_problem(reference_config(), num_ranks, rank, num_rows, Skew::Balanced);
        auto executor = make_executor(p.config, options_of(ExecutorKind::Hybrid), p.weights.experts,
                                      num_ranks, rank, backend);
        EXPECT_EQ(executor->layout_for(num_rows),
                  num_rows == 128 ? Layout::Masked : Layout::Contiguous);
        const auto r = run(p, options_of(ExecutorKind::Hybrid), backend);
        const auto d = difference(p, r, num_rows / 16);
        EXPECT_LT(d.calc_diff, 0.003)
            << num_ranks << " ranks, rank " << rank << ", " << num_rows << " rows";
        EXPECT_LT(d.rel_error, 4e-3);
        EXPECT_LT(d.max_row_error, 2e-2);
      }
}

TEST(ReferenceCases, AnEmptyRankLaunchesNothingAndAnEmptyCallWritesNothing) {
  auto backend = make_cpu_backend(1);
  auto p = make_problem(reference_config(), 2, 1, 0, Skew::Balanced);
  EXPECT_TRUE(run(p, options_of(ExecutorKind::Hybrid), backend).status.good());
  // Rows exist in the bound, but the device's count says that none came.
  p = make_problem(reference_config(), 2, 1, 4, Skew::Balanced);
  p.num_rows[0] = 0;
  const auto r = run(p, options_of(ExecutorKind::Contiguous), backend);
  for (int64_t i = 0; i < r.out.count(); ++i)
    ASSERT_EQ(r.out[i].bits(), testing::poison_value<Bf16>().bits());
}

MoeConfig small_config(int64_t num_experts, int64_t top_k) {
  MoeConfig config;
  config.hidden = 136;  // no multiple of any vector
  config.intermediate = 72;
  config.num_experts = num_experts;
  config.top_k = top_k;
  return config;
}

TEST(Executors, AgreeToTheBitWhateverLayoutAlignmentCapacityAndThreads) {
  for (const Skew skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                          Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing}) {
    const auto p = make_problem(small_config(12, 3), 2, 1, 67, skew);
    auto backend = make_cpu_backend(1);
    const auto expected = run(p, options_of(ExecutorKind::Contiguous), backend);
    EXPECT_LT(difference(p, expected, 1).rel_error, skew == Skew::NoExpert ? 1e-30 : 4e-3)
        << testing::skew_name(skew);
    for (const int64_t alignment : {1, 3, 16, 128})
      for (const int threads : {1, 3}) {
        auto options = options_of(ExecutorKind::Contiguous);
        options.alignment = alignment;
        EXPECT_TRUE(same_bits(run(p, options, make_cpu_backend(threads)).out, expected.out))
            << testing::skew_name(skew) << " alignment " << alignment << " threads " << threads;
      }
    for (const bool repeats : {false, true}) {
      auto options = options_of(ExecutorKind::Masked);
      options.allow_repeated_experts = repeats;
      EXPECT_TRUE(same_bits(run(p, options, backend).out, expected.out))
          << testing::skew_name(skew);
    }
  }
}

TEST(Executors, ARowDoesNotDependOnItsBatch) {
  auto backend = make_cpu_backend(2);
  const auto p = make_problem(small_config(8, 2), 1, 0, 40, Skew::Zipf);
  const auto all = run(p, options_of(ExecutorKind::Contiguous), backend);
  for (const int64_t row : {0, 7, 39}) {
    Problem one = make_problem(p.config, 1, 0, 1, Skew::Zipf);
    std::copy_n(p.rows.data() + row * 136, 136, one.rows.data());
    std::copy_n(p.ids.data() + row * 2, 2, one.ids.data());
    std::copy_n(p.router_weights.data() + row * 2, 2, one.router_weights.data());
    const auto alone = run(one, options_of(ExecutorKind::Masked), backend);
    EXPECT_EQ(std::memcmp(alone.out.data(), all.out.data() + row * 136, 136 * sizeof(Bf16)), 0)
        << row;
  }
}

TEST(Executors, RepeatedIdsSumInContiguousAndInAllowedMaskedAndAreAStatusElsewhere) {
  auto backend = make_cpu_backend(1);
  auto p = make_problem(small_config(4, 4), 1, 0, 9, Skew::Balanced);
  for (int64_t i = 0; i < p.ids.count(); ++i) p.ids[i] = 2;  // 36 slots of one expert, 9 rows
  const auto contiguous = run(p, options_of(ExecutorKind::Contiguous), backend);
  EXPECT_TRUE(contiguous.status.good());
  EXPECT_LT(difference(p, contiguous, 1).rel_error, 4e-3);

  auto options = options_of(ExecutorKind::Masked);
  const auto overflow = run(p, options, backend);  // guards are checked inside
  EXPECT_EQ(overflow.status.detail, static_cast<int32_t>(StatusDetail::MaskedOverflow));
  options.allow_repeated_experts = true;
  const auto allowed = run(p, options, backend);
  EXPECT_TRUE(allowed.status.good());
  EXPECT_TRUE(same_bits(allowed.out, contiguous.out));
}

TEST(Executors, AWrongGateUpOrderIsSeen) {
  auto backend = make_cpu_backend(1);
  auto p = make_problem(small_config(4, 2), 1, 0, 20, Skew::Balanced);
  const auto right = difference(p, run(p, options_of(ExecutorKind::Contiguous), backend), 1);
  auto wrong = p;
  wrong.weights.experts.order = GateUpOrder::UpGate;
  const auto swapped = run(wrong, options_of(ExecutorKind::Contiguous), backend);
  EXPECT_LT(right.rel_error, 4e-3);
  EXPECT_GT(difference(p, swapped, 1).rel_error, 0.1);
  wrong.weights.experts.order = GateUpOrder::Unset;
  EXPECT_THROW(run(wrong, options_of(ExecutorKind::Contiguous), backend), Error);
}

TEST(HybridExecutor, ChoosesByTheBoundInclusiveOfTheThreshold) {
  auto backend = make_cpu_backend(1);
  const auto p = make_problem(small_config(4, 2), 1, 0, 1, Skew::Balanced);
  const auto layout = [&](int64_t threshold, int64_t bound) {
    auto options = options_of(ExecutorKind::Hybrid);
    options.masked_max_tokens = threshold;
    return make_executor(p.config, options, p.weights.experts, 1, 0, backend)->layout_for(bound);
  };
  EXPECT_EQ(layout(256, 256), Layout::Masked);
  EXPECT_EQ(layout(256, 257), Layout::Contiguous);
  EXPECT_EQ(layout(0, 1), Layout::Contiguous);
  EXPECT_THROW(layout(-1, 1), Error);
}

TEST(HybridExecutor, SizesMaskedBuffersAtItsThresholdOnly) {
  const ExecutorShape shape{2048, 768, 128, 8, 1, false};
  const int64_t hybrid = executor_bytes(shape, ExecutorKind::Hybrid, 256, 8192);
  EXPECT_EQ(hybrid, std::max(executor_bytes(shape, Layout::Masked, 256),
                             executor_bytes(shape, Layout::Contiguous, 8192)));
  EXPECT_LT(hybrid, executor_bytes(shape, Layout::Masked, 8192));
}

// ---- rows in f8_e4m3

// Experts in fp8, the last rows without any.
Problem f8_problem() {
  MoeConfig config;
  config.hidden = 264, config.intermediate = 200, config.num_experts = 8, config.top_k = 3;
  Problem p = make_problem(config, 1, 0, 40, Skew::Balanced);
  p.weights = random_weights(config, 1, 0, 42, fp8_blocks(config));
  std::fill_n(p.ids.data() + 37 * config.top_k, 3 * config.top_k, -1);
  return p;
}

// Codes and scales of rows as they travel, in as many windows as there are ranks.
struct Windows {
  Windows(const Problem& p, int num_ranks)
      : block(p.rows.view().dim(0) / num_ranks), bases({num_ranks}) {
    const int64_t h = p.config.hidden, groups = ceil_div(h, kQuantGroup);
    for (int r = 0; r < num_ranks; ++r) {
      codes_at = 64, scales_at = 64 + block * h;
      auto& window = memory.emplace_back(static_cast<size_t>(scales_at + block * groups * 4));
      const RowSource mine = rows_in(window.data(), h, groups);
      QuantizeRows op;
      op.dst = Tensor(const_cast<void*>(mine.rows.data), DType::F8E4m3, mine.rows.shape);
      op.scales = Tensor(const_cast<void*>(mine.scales.data), DType::F32, mine.scales.shape);
      op.src = p.rows.view().rows(r * block, block);
      testing::run_plain(op);
    }
    for (int r = 0; r < num_ranks; ++r)
      bases[r] = reinterpret_cast<int64_t>(memory[static_cast<size_t>(r)].data());
  }
  RowSource seen_from(int rank, const Problem& p) {
    auto* here = memory[static_cast<size_t>(rank)].data();
    RowSource source = rows_in(here, p.config.hidden, ceil_div(p.config.hidden, kQuantGroup));
    if (memory.size() == 1) return source;
    source.peers = {std::as_const(bases).view(), here, rank};
    source.block = block;
    return source;
  }

 private:
  RowSource rows_in(const std::byte* window, int64_t h, int64_t groups) const {
    return {.rows = ConstTensor(window + codes_at, DType::F8E4m3, {block, h}),
            .scales = ConstTensor(window + scales_at, DType::F32, {block, groups})};
  }

  int64_t block, codes_at = 0, scales_at = 0;
  std::vector<std::vector<std::byte>> memory;
  Buffer<int64_t> bases;
};

TEST(Fp8Rows, HereOrInMemoryOfPeersGiveTheBitsOfRowsQuantisedHere) {
  for (const auto kind : {ExecutorKind::Contiguous, ExecutorKind::Masked, ExecutorKind::Hybrid})
    for (const auto form : {CpuForm::Plain, CpuForm::Fast}) {
      const auto backend = make_cpu_backend(2, form);
      Problem p = f8_problem();
      const auto expected = run(p, options_of(kind), backend);
      ASSERT_TRUE(expected.status.good());
      for (const int num_ranks : {1, 2, 4})
        for (int rank = 0; rank < num_ranks; ++rank) {
          Windows windows(p, num_ranks);
          p.source = windows.seen_from(rank, p);
          EXPECT_TRUE(testing::same_bits(run(p, options_of(kind), backend).out, expected.out))
              << executor_name(kind) << ", rank " << rank << " of " << num_ranks;
        }
    }
}

TEST(Fp8Rows, AreRefusedByExpertsOfBf16AndWithoutTheirScales) {
  const auto backend = make_cpu_backend(1);
  const auto refused = [&](const Problem& p, const char* says) {
    try {
      run(p, options_of(ExecutorKind::Contiguous), backend);
      ADD_FAILURE() << "nothing was refused, need " << says;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
  };
  Problem p = f8_problem();
  Windows windows(p, 1), two(p, 2);
  p.source = windows.seen_from(0, p);
  p.source->scales = {};
  refused(p, "need f32 [R, 3]");
  p.source = RowSource{p.rows.view(), two.seen_from(0, p).peers, 20};
  refused(p, "in memory of peers");
  p.weights = random_weights(p.config, 1, 0, 42);
  p.source = windows.seen_from(0, p);
  refused(p, "rows=f8_e4m3, experts are bf16");
}

}  // namespace
}  // namespace switchyard
