// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// The grouped GEMM of Hopper against the CPU's form with fp32 results: relative L2 error per expert
// and per row, exact rows, untouched neighbours, equal bits in every layout and tile.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "base/backend.h"
#include "cuda/grouped_gemm/launch_gemm.h"
#include "ops/ops.h"
#include "plan/index.h"
#include "strategy/gemm_configs.h"
#include "testing/cuda_buffer.h"
#include "testing/launched_kernel.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::cuda_backend;
using testing::CudaBuffer;

struct GemmCase {
  std::vector<int32_t> counts;  // rows of each expert
  int64_t n = 128, k = 64;
  const Activation* activation = nullptr;
  GateUpOrder order = GateUpOrder::GateUp;
  bool bias = false;
  bool row_weights = false;
  DType dst = DType::Bf16;
  int64_t capacity = 0;   // 0: contiguous
  int64_t alignment = 1;  // contiguous
  int64_t max_rows = 0;   // 0: the sum of counts; a larger bound chooses larger tiles
  int num_sms = 0;        // 0: the backend's
  bool divided = false;   // steps are divided beforehand, not drawn
  int slots_per_row = 0;  // > 0: as many rows of the groups are the same
  bool gathers = false;   // these are in src once
  bool groups_are_older = false;
  int tile_rows = 0;  // > 0: tiles come in a table
  // One of kGemmConfigs; null: the one that is chosen.
  const GemmConfig* config = nullptr;

  int64_t sum() const {
    int64_t all = 0;
    for (const int32_t c : counts) all += c;
    return all;
  }
  int64_t width() const { return activation && activation->gated() ? n / 2 : n; }
};

// Rows of experts 0, 1, ...: the same values whatever the layout.
class Problem {
 public:
  explicit Problem(const GemmCase& c) : c_(c) {
    const auto e = static_cast<int64_t>(c.counts.size());
    first_ = Buffer<int64_t>({e + 1});
    counts_ = Buffer<int32_t>({e});
    first_[0] = 0;
    for (int64_t i = 0; i < e; ++i) {
      counts_[i] = c.counts[static_cast<size_t>(i)];
      const int64_t padded = (counts_[i] + c.alignment - 1) / c.alignment * c.alignment;
      first_[i + 1] = first_[i] + (c.capacity > 0 ? c.capacity : padded);
    }
    rows_ = first_[e];
    weights_ = testing::random_bf16({e, c.n, c.k}, 11, std::sqrt(3.0f / static_cast<float>(c.k)));
    bias_ = testing::random_f32({e, c.n}, 12);
    src_ = Buffer<Bf16>({rows_, c.k});  // poisoned where no expert has a row
    slot_of_row_ = Buffer<int32_t>({rows_});
    row_weights_ = testing::random_f32({std::max<int64_t>(1, c.sum()), 1}, 13, 0.1f, 1.0f);
    const auto values = testing::random_bf16({c.sum(), c.k}, 14);
    int32_t slot = 0;
    for (int64_t i = 0; i < e; ++i)
      for (int64_t r = first_[i]; r < first_[i] + counts_[i]; ++r, ++slot) {
        slot_of_row_[r] = slot;
        const int64_t row = c.slots_per_row > 0 ? slot / c.slots_per_row : slot;
        std::copy_n(values.data() + row * c.k, c.k, src_.data() + r * c.k);
      }
    if (c.gathers) src_ = values;
    if (c.tile_rows > 0) make_tiles();
  }

  int64_t rows() const { return rows_; }
  int64_t first(int64_t e) const { return first_[e]; }

  // Everything but dst, with operands where `place` puts them.
  template <class Place>
  GroupedGemm gemm(Place&& place) {
    GroupedGemm g;
    g.src = place(src_);
    g.weights = place(weights_);
    if (c_.bias) g.bias = place(bias_);
    g.groups = {place(counts_), place(first_)};
    g.layout = c_.capacity > 0 ? Layout::Masked : Layout::Contiguous;
    g.max_rows = c_.max_rows > 0 ? c_.max_rows : c_.sum();
    g.activation = c_.activation;
    g.order = c_.order;
    if (c_.row_weights || c_.gathers) g.slot_of_row = place(slot_of_row_);
    if (c_.row_weights) g.row_weights = place(row_weights_);
    if (c_.gathers) g.slots_per_row = c_.slots_per_row;
    g.groups_are_older = c_.groups_are_older;
    if (c_.tile_rows > 0) g.groups.tiles = place(tiles_), g.groups.tile_rows = c_.tile_rows;
    g.num_sms = c_.num_sms;
    return g;
  }

 private:
  // As PlanRows leaves it, with two places that no tile needs.
  void make_tiles() {
    std::vector<RowTile> tiles;
    for (int32_t e = 0; e < static_cast<int32_t>(c_.counts.size()); ++e) {
      const TileSplit split = split_rows(counts_[e], c_.tile_rows);
      for (int i = 0; i < split.tiles; ++i)
        tiles.push_back(
            {first_[e] + i * split.rows, std::min(split.rows, counts_[e] - i * split.rows), e});
    }
    tiles.resize(tiles.size() + 2);
    tiles_ = Buffer<int32_t>({static_cast<int64_t>(tiles.size()), kRowTileWords});
    std::memcpy(tiles_.data(), tiles.data(), tiles.size() * sizeof(RowTile));
  }

  const GemmCase& c_;
  int64_t rows_ = 0;
  Buffer<int32_t> tiles_;
  Buffer<int64_t> first_;
  Buffer<int32_t> counts_, slot_of_row_;
  Buffer<Bf16> weights_, src_;
  Buffer<float> bias_, row_weights_;
};

int device_sms() {
  return describe_device(DeviceKind::Cuda).num_sms;
}

// The rows of every expert one after the other, as floats; what is not theirs must be untouched.
template <class T>
std::vector<float> run_on_gpu(const GemmCase& c, Problem& p) {
  testing::CudaCopies place;
  CudaBuffer<T> dst({p.rows(), c.width()});
  GroupedGemm g = p.gemm(place);
  g.dst = dst.view();
  Buffer<int32_t> zero(Shape{1});
  zero[0] = 0;
  CudaBuffer<int32_t> next_step(zero);
  if (!c.divided) g.groups.next_step = next_step.view();
  for (int call = 0; call < 2; ++call)  // the second finds the counter as the first left it
    c.config ? cuda::launch_gemm(*c.config, g, device_sms(), nullptr)
             : cuda_backend().ops().run(g, nullptr);
  EXPECT_EQ(next_step.host()[0], 0);
  const Buffer<T>& out = dst.host();
  EXPECT_TRUE(out.guards_intact());

  const Buffer<T> untouched(out.view().shape);
  std::vector<float> values;
  int64_t next = 0;  // first row nobody has looked at
  const auto expect_untouched = [&](int64_t until) {
    const auto bytes = static_cast<size_t>((until - next) * c.width()) * sizeof(T);
    EXPECT_EQ(std::memcmp(out.data() + next * c.width(), untouched.data(), bytes), 0)
        << "rows " << next << " to " << until;
  };
  for (size_t e = 0; e < c.counts.size(); ++e) {
    const int64_t first = p.first(static_cast<int64_t>(e));
    expect_untouched(first);
    next = first + c.counts[e];
    for (int64_t i = first * c.width(); i < next * c.width(); ++i)
      values.push_back(static_cast<float>(out[i]));
  }
  expect_untouched(p.rows());
  return values;
}

std::vector<float> run_on_gpu(const GemmCase& c) {
  Problem p(c);
  return c.dst == DType::F32 ? run_on_gpu<float>(c, p) : run_on_gpu<Bf16>(c, p);
}

std::vector<float> run_on_cpu(const GemmCase& c) {
  static const auto cpu = make_cpu_backend();
  Problem p(c);
  Buffer<float> dst({p.rows(), c.width()});
  GroupedGemm g = p.gemm([](auto& host) { return host.view(); });
  g.dst = dst.view();
  cpu->ops().run(g, nullptr);
  std::vector<float> values;
  for (size_t e = 0; e < c.counts.size(); ++e) {
    const float* first = dst.data() + p.first(static_cast<int64_t>(e)) * c.width();
    values.insert(values.end(), first, first + c.counts[e] * c.width());
  }
  return values;
}

// Rounding to bf16 errs by 2^-9 of a value at most, 1.7e-3 (rms) of a row; fp32 sums by far less. A
// sum that cancels keeps the error of its terms: 2^-24 of each, whose sizes add up to sqrt(K) at
// most here.
void expect_close(const GemmCase& c) {
  const auto actual = run_on_gpu(c), expected = run_on_cpu(c);
  ASSERT_EQ(actual.size(), expected.size());
  const double bound = c.dst == DType::F32 ? 2e-5 : 2.5e-3;
  const auto width = static_cast<size_t>(c.width());
  const double cancelled =
      std::sqrt(static_cast<double>(c.k) * static_cast<double>(c.width())) * 0x1p-24;
  double all_error = 0, all_size = 0;
  for (size_t row = 0; row < actual.size() / width; ++row) {
    double error = 0, size = 0;
    for (size_t i = row * width; i < (row + 1) * width; ++i) {
      error += std::pow(double{actual[i]} - double{expected[i]}, 2);
      size += std::pow(double{expected[i]}, 2);
    }
    ASSERT_LE(std::sqrt(error), 2.5 * bound * std::sqrt(size) + cancelled) << "row " << row;
    all_error += error, all_size += size;
  }
  EXPECT_LE(std::sqrt(all_error), bound * std::sqrt(all_size));
}

std::vector<int32_t> random_counts(int64_t num_experts, int32_t most, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<int32_t> counts(static_cast<size_t>(num_experts));
  for (auto& c : counts)
    c = static_cast<int32_t>(rng() % static_cast<uint64_t>(most + 1)) *
        static_cast<int32_t>(rng() % 4 > 0);
  return counts;
}

TEST(HopperGroupedGemm, MatchesTheCpuOnEveryShape) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t k : {8, 64, 96, 704, 2880})
    for (const int64_t n : {8, 96, 256, 704, 2880})
      for (const int32_t most : {3, 70, 300}) {
        GemmCase c;
        c.counts = random_counts(5, most, static_cast<uint64_t>(k + n + most));
        c.n = n, c.k = k;
        SCOPED_TRACE(::testing::Message() << "k " << k << ", n " << n << ", rows up to " << most);
        expect_close(c);
      }
}

TEST(HopperGroupedGemm, MatchesTheCpuWithEveryActivationOrderAndBias) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto kind : Activations::kAll)
    for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate})
      for (const bool extras : {false, true})
        for (const int32_t most : {20, 200}) {
          Activation activation;
          activation.kind = kind;
          activation.limit = 0.7f;
          GemmCase c;
          c.counts = random_counts(6, most, 5);
          c.n = 2 * 200, c.k = 136;
          c.activation = &activation;
          c.order = order;
          c.bias = c.row_weights = extras;
          SCOPED_TRACE(::testing::Message() << activation_name(kind) << ", order "
                                            << static_cast<int>(order) << ", extras " << extras);
          expect_close(c);
        }
}

TEST(HopperGroupedGemm, GivesFp32OfAnyWidth) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t n : {1, 3, 60, 128, 257})
    for (const int32_t rows : {1, 64, 700}) {
      GemmCase c;
      c.counts = {rows};
      c.n = n, c.k = 2048;
      c.bias = true;
      c.dst = DType::F32;
      SCOPED_TRACE(::testing::Message() << "n " << n << ", rows " << rows);
      expect_close(c);
    }
}

TEST(HopperGroupedGemm, GivesTheSameBitsInEveryLayoutAndTile) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const Activation silu;
  for (const bool gated : {false, true}) {
    GemmCase c;
    c.counts = {0, 1, 63, 64, 65, 0, 127, 128, 129, 300, 7};
    c.n = 704, c.k = 712;
    if (gated) c.activation = &silu;
    const auto expected = run_on_gpu(c);
    EXPECT_EQ(run_on_gpu(c), expected) << "a second time";
    for (const int64_t max_rows : {c.sum(), int64_t{40'000}}) {
      for (const int64_t alignment : {1, 8, 128}) {
        c.capacity = 0, c.alignment = alignment, c.max_rows = max_rows;
        EXPECT_EQ(run_on_gpu(c), expected) << "alignment " << alignment << ", bound " << max_rows;
      }
      for (const int64_t capacity : {300, 321, 512}) {
        c.capacity = capacity, c.alignment = 1;
        EXPECT_EQ(run_on_gpu(c), expected) << "capacity " << capacity << ", bound " << max_rows;
      }
    }
  }
}

TEST(HopperGroupedGemm, GivesTheSameBitsInEveryConfiguration) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Activation silu, relu2;
  relu2.kind = ActivationKind::Relu2;
  for (const Activation* activation : std::array<const Activation*, 3>{nullptr, &silu, &relu2})
    for (const DType dst : {DType::Bf16, DType::F32}) {
      GemmCase c;
      c.counts = {0, 1, 63, 64, 65, 0, 127, 257, 300, 7};
      c.n = 704, c.k = 712, c.activation = activation, c.dst = dst;
      c.bias = c.row_weights = true;
      const auto expected = run_on_gpu(c);
      for (const GemmConfig& config : kGemmConfigs) {
        c.config = &config;
        if (config.scaled())
          EXPECT_THROW(run_on_gpu(c), Error) << describe(config);
        else
          EXPECT_EQ(run_on_gpu(c), expected) << describe(config);
      }
    }
}

TEST(HopperGroupedGemm, GathersRowsByTheirSlotsWithTheSameBits) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const Activation silu;
  for (const GemmConfig& config : kGemmConfigs)
    for (const bool masked : {false, true}) {
      GemmCase c;
      c.counts = {0, 1, 7, 8, 9, 31, 32, 33, 0, 70};
      c.n = 704, c.k = 712, c.activation = &silu, c.row_weights = true, c.slots_per_row = 3;
      c.capacity = masked ? 80 : 0;
      c.config = &config;
      if (config.scaled()) continue;
      const auto expected = run_on_gpu(c);
      c.gathers = true;
      if (!config.streams()) {
        EXPECT_THROW(run_on_gpu(c), Error) << describe(config);
        continue;
      }
      EXPECT_EQ(run_on_gpu(c), expected) << describe(config);
      c.groups_are_older = true;
      EXPECT_EQ(run_on_gpu(c), expected) << describe(config);
      for (const int tile_rows : {8, config.rows}) {
        c.tile_rows = tile_rows;
        EXPECT_EQ(run_on_gpu(c), expected) << describe(config) << ", a table of " << tile_rows;
      }
      c.tile_rows = config.rows + 1;
      EXPECT_THROW(run_on_gpu(c), Error) << describe(config);
    }
}

TEST(HopperGroupedGemm, FindsTheExpertsOfAnyNumber) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 31, 32, 33, 127, 128, 129, 1024, 1025, 1500}) {
    GemmCase c;
    c.counts = random_counts(experts, 12, static_cast<uint64_t>(experts));
    c.k = 72;
    c.config = &kGemmConfigs[4];
    const auto expected = run_on_gpu(c);
    for (const GemmConfig& config : kGemmConfigs) {
      if (!config.streams()) continue;
      c.config = &config;
      EXPECT_EQ(run_on_gpu(c), expected) << describe(config) << ", " << experts << " experts";
    }
  }
}

TEST(HopperGroupedGemm, GivesTheSameBitsOnAnyNumberOfMultiprocessors) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const Activation silu;
  const int all = device_sms();
  for (const bool gated : {false, true})
    for (const bool large_tiles : {false, true}) {
      GemmCase c;
      c.counts = {0, 1, 63, 65, 0, 128, 129, 0, 7};  // 43 rows an expert: the small tile
      c.n = 704, c.k = 136;
      if (gated) c.activation = &silu;
      if (large_tiles) c.max_rows = 40'000;
      const auto expected = run_on_gpu(c);
      for (const int num_sms : {1, 2, 7, all - 1, all}) {
        c.num_sms = num_sms;
        EXPECT_EQ(run_on_gpu(c), expected) << num_sms << " SMs, bound " << c.max_rows;
      }
    }
}

TEST(HopperGroupedGemm, GivesTheSameBitsWhoeverTakesAStep) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t k : {8, 64, 320, 712})  // from one stage per step to more than are in flight
    for (const int64_t max_rows : {0, 8000, 40'000})
      for (const int num_sms : {0, 3, 10}) {
        GemmCase c;
        c.counts = random_counts(40, 700, static_cast<uint64_t>(k));
        c.n = 704, c.k = k, c.max_rows = max_rows, c.num_sms = num_sms;
        c.divided = true;
        const auto expected = run_on_gpu(c);
        c.divided = false;
        EXPECT_EQ(run_on_gpu(c), expected)
            << "k " << k << ", bound " << max_rows << ", " << num_sms << " SMs";
      }
}

// Blocks of the one kernel that a call launches: each holds a multiprocessor to itself.
int64_t blocks_of(const GroupedGemm& gemm) {
  const auto params = testing::launched_kernel(
      [&](CUstream_st* stream) { cuda_backend().ops().run(gemm, stream); });
  return int64_t{params.gridDim.x} * params.gridDim.y * params.gridDim.z;
}

TEST(HopperGroupedGemm, UsesNoMoreMultiprocessorsThanItMay) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const int all = device_sms();
  CudaBuffer<Bf16> src({4000, 64}), weights({2, 1024, 64}), dst({4000, 1024});
  CudaBuffer<int32_t> counts(Shape{2});
  CudaBuffer<int64_t> first_row(Shape{3});
  GroupedGemm g;
  g.dst = dst.view(), g.src = src.view(), g.weights = weights.view();
  g.groups = {counts.view(), first_row.view()};
  for (const int64_t max_rows : {int64_t{100}, int64_t{4000}})
    for (const int num_sms : {1, 2, 7, all - 1, all}) {
      g.max_rows = max_rows, g.num_sms = num_sms;
      const auto config = choose_gemm_config({2, max_rows, 1024, 64, num_sms});
      EXPECT_LE(blocks_of(g), num_sms / config.cluster() * config.cluster()) << max_rows;
      EXPECT_GE(blocks_of(g), 1);
    }
}

TEST(HopperGroupedGemm, RefusesMultiprocessorsThatTheDeviceHasNot) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int num_sms : {-1, device_sms() + 1}) {
    GemmCase c;
    c.counts = {3};
    c.num_sms = num_sms;
    try {
      run_on_gpu(c);
      ADD_FAILURE() << num_sms;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::ShapeMismatch);
      EXPECT_EQ(std::string(e.what()).find("grouped_gemm: num_sms="), 0u) << e.what();
    }
  }
}

TEST(HopperGroupedGemm, ServesManyExpertsAndNone) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 60, 512, 4096}) {
    GemmCase c;
    c.counts = random_counts(experts, 5, 3);
    c.n = 96, c.k = 64;
    SCOPED_TRACE(experts);
    expect_close(c);
    std::fill(c.counts.begin(), c.counts.end(), 0);
    c.max_rows = 100;
    EXPECT_TRUE(run_on_gpu(c).empty());
  }
}

}  // namespace
}  // namespace switchyard
