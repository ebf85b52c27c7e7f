// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/scaled_gemm_test.cc -- the grouped GEMM of fp8 against float64, element by element, and
// the same bits in every layout, configuration and batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>

#include "cuda/grouped_gemm/launch_gemm.h"
#include "ops/ops.h"
#include "testing/both.h"
#include "testing/cuda_layer.h"
#include "testing/f8_e4m3.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::CudaBuffer;

struct ScaledCase {
  std::vector<int32_t> counts;
  int64_t n = 256, k = 384;
  ScaleBlock src_block{1, kQuantGroup}, weight_block{128, 128};
  DType dst = DType::F32;
  int64_t capacity = 0;  // 0: contiguous
  bool bias = false, row_weights = false;
  int slots_per_row = 0;  // > 0: scales are those of tokens
  int64_t max_rows = 0;   // 0: the sum of counts
  int num_sms = 0;
  const GemmConfig* config = nullptr;  // null: chosen

  int64_t sum() const {
    int64_t all = 0;
    for (const int32_t c : counts) all += c;
    return all;
  }
};

Buffer<F8E4m3> random_codes(Shape shape, uint64_t seed) {
  Buffer<F8E4m3> codes(shape);
  std::mt19937_64 rng(seed);
  for (int64_t i = 0; i < codes.count(); ++i) {
    auto bits = static_cast<uint8_t>(rng());
    if ((bits & 0x7f) == 0x7f) bits ^= 1;  // no NaN
    codes[i] = F8E4m3::from_bits(bits);
  }
  return codes;
}

// Rows of experts 0, 1, ...: the same values whatever the layout.
class ScaledProblem {
 public:
  explicit ScaledProblem(const ScaledCase& its_case)
      : c(its_case),
        experts(static_cast<int64_t>(c.counts.size())),
        counts(Shape{experts}),
        first(Shape{experts + 1}) {
    first[0] = 0;
    for (int64_t e = 0; e < experts; ++e) {
      counts[e] = c.counts[static_cast<size_t>(e)];
      first[e + 1] = first[e] + (c.capacity > 0 ? c.capacity : counts[e]);
    }
    weights = random_codes({experts, c.n, c.k}, 31);
    weight_scales =
        testing::random_f32(scales_shape({experts, c.n, c.k}, c.weight_block), 32, 0.5f, 2.0f);
    bias = testing::random_f32({experts, c.n}, 33);
    row_weights = testing::random_f32({std::max<int64_t>(1, c.sum()), 1}, 34, 0.1f, 1.0f);
    const auto codes = random_codes({c.sum(), c.k}, 35);
    const Shape of_tokens = scales_shape({c.sum(), c.k}, c.src_block);
    const auto scales = testing::random_f32(of_tokens, 36, 0.5f, 2.0f);
    src = Buffer<F8E4m3>({first[experts], c.k});
    src_scales = c.slots_per_row > 0 ? scales : Buffer<float>({first[experts], of_tokens[1]});
    slot_of_row = Buffer<int32_t>({first[experts]});
    int32_t slot = 0;
    for (int64_t e = 0; e < experts; ++e)
      for (int64_t r = first[e]; r < first[e] + counts[e]; ++r, ++slot) {
        slot_of_row[r] = slot;
        const int64_t row = token(slot), steps = of_tokens[1];
        std::copy_n(codes.data() + row * c.k, c.k, src.data() + r * c.k);
        if (c.slots_per_row == 0)
          std::copy_n(scales.data() + row * steps, steps, src_scales.data() + r * steps);
      }
  }

  int64_t token(int32_t slot) const { return c.slots_per_row > 0 ? slot / c.slots_per_row : slot; }

  template <class Place>
  ScaledGemm gemm(Place&& place) {
    ScaledGemm g;
    g.src = place(src), g.src_scales = {place(src_scales), c.src_block};
    g.weights = place(weights), g.weight_scales = {place(weight_scales), c.weight_block};
    if (c.bias) g.bias = place(bias);
    g.groups = {place(counts), place(first)};
    g.layout = c.capacity > 0 ? Layout::Masked : Layout::Contiguous;
    g.max_rows = c.max_rows > 0 ? c.max_rows : c.sum();
    g.slot_of_row = place(slot_of_row);
    if (c.row_weights) g.row_weights = place(row_weights);
    g.slots_per_row = c.slots_per_row, g.src_is_scattered = c.slots_per_row > 0;
    g.num_sms = c.num_sms;
    return g;
  }

  const ScaledCase& c;
  int64_t experts;
  Buffer<int32_t> counts;
  Buffer<int64_t> first;
  Buffer<F8E4m3> weights, src;
  Buffer<float> weight_scales, src_scales, bias, row_weights;
  Buffer<int32_t> slot_of_row;
};

// The rows of every expert, `width` elements each, one after the other; what is not theirs is
// untouched.
template <class T>
std::vector<float> rows_of(const ScaledProblem& p, const Buffer<T>& out, int64_t width) {
  EXPECT_TRUE(out.guards_intact());
  const Buffer<T> untouched(Shape{1});
  std::vector<float> values;
  std::vector<bool> used(static_cast<size_t>(p.first[p.experts]));
  for (int64_t e = 0; e < p.experts; ++e)
    for (int64_t r = p.first[e]; r < p.first[e] + p.counts[e]; ++r) {
      used[static_cast<size_t>(r)] = true;
      for (int64_t j = 0; j < width; ++j) values.push_back(static_cast<float>(out[r * width + j]));
    }
  for (size_t r = 0; r < used.size(); ++r)
    for (int64_t j = 0; j < width && !used[r]; ++j)
      EXPECT_EQ(std::memcmp(&out[static_cast<int64_t>(r) * width + j], &untouched[0], sizeof(T)), 0)
          << "row " << r;
  return values;
}

template <class T>
std::vector<float> run_with(const ScaledCase& c) {
  ScaledProblem p(c);
  testing::CudaCopies place;
  CudaBuffer<T> dst(Shape{p.first[p.experts], c.n});
  ScaledGemm g = p.gemm(place);
  g.dst = dst.view();
  Buffer<int32_t> zero(Shape{1});
  zero[0] = 0;
  CudaBuffer<int32_t> next_step(zero);
  g.groups.next_step = next_step.view();
  for (int call = 0; call < 2; ++call)
    c.config ? cuda::launch_gemm(*c.config, g, describe_device(DeviceKind::Cuda).num_sms, nullptr)
             : testing::cuda_ops().run(g, nullptr);
  EXPECT_EQ(next_step.host()[0], 0);
  return rows_of(p, dst.host(), c.n);
}

std::vector<float> run_on_gpu(const ScaledCase& c) {
  return c.dst == DType::F32 ? run_with<float>(c) : run_with<Bf16>(c);
}

// Each element within kBound of what the products of its scales and |q q| add up to, and of its own
// rounding. Returns the worst error by that sum. The tensor cores align the 32 products of a step to
// the largest and cut them off: codes at random, as wide as the format, were seen within 2^-10.2
// (decision 65).
constexpr double kBound = 0x1p-9;
double expect_close(const ScaledCase& c) {
  ScaledProblem p(c);
  const auto actual = run_on_gpu(c);
  const double rounding = c.dst == DType::F32 ? 0x1p-22 : 0x1p-8;
  double worst = 0;
  size_t at = 0;
  for (int64_t e = 0; e < p.experts; ++e)
    for (int64_t r = p.first[e]; r < p.first[e] + p.counts[e]; ++r) {
      const int64_t token = c.slots_per_row > 0 ? p.slot_of_row[r] / c.slots_per_row : r;
      const int64_t src_steps = p.src_scales.view().dim(1), steps = p.weight_scales.view().dim(2);
      for (int64_t j = 0; j < c.n; ++j, ++at) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < c.k; ++i) {
          const double scale =
              double{p.src_scales[token * src_steps + i / c.src_block.cols]} *
              double{p.weight_scales[(e * p.weight_scales.view().dim(1) + j / c.weight_block.rows) *
                                         steps +
                                     i / c.weight_block.cols]};
          const double product = double{static_cast<float>(p.src[r * c.k + i])} *
                                 double{static_cast<float>(p.weights[(e * c.n + j) * c.k + i])};
          sum += scale * product, size += scale * std::abs(product);
        }
        const double factor = c.row_weights ? double{p.row_weights[p.slot_of_row[r]]} : 1.0;
        const double wanted = sum * factor + (c.bias ? double{p.bias[e * c.n + j]} : 0.0);
        const double error = std::abs(double{actual[at]} - wanted);
        EXPECT_LE(error, kBound * size * factor + rounding * std::abs(wanted))
            << "expert " << e << ", row " << r << ", column " << j;
        if (::testing::Test::HasFailure()) return 1;
        if (c.dst == DType::F32) worst = std::max(worst, error / (size * factor));
      }
    }
  return worst;
}

const std::vector<int32_t> kCounts = {0, 1, 63, 64, 65, 0, 127, 129, 7};

TEST(CudaScaledGemm, EqualsFloat64ForEveryKindOfScale) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  constexpr int64_t kWhole = ScaleBlock::kWhole;
  double worst = 0;
  for (const ScaleBlock weights : {ScaleBlock{128, 128}, ScaleBlock{1, kWhole},
                                   ScaleBlock{kWhole, kWhole}, ScaleBlock{64, 256}})
    for (const ScaleBlock rows : {ScaleBlock{1, 128}, ScaleBlock{1, kWhole}})
      for (const int64_t k : {16, 128, 720}) {
        ScaledCase c{
            .counts = kCounts, .n = 328, .k = k, .src_block = rows, .weight_block = weights};
        worst = std::max(worst, expect_close(c));
        ASSERT_FALSE(HasFailure()) << "K " << k << ", weights " << weights.rows << "x"
                                   << weights.cols << ", rows " << rows.cols;
      }
  RecordProperty("worst_error_of_sum_times_2_13", std::to_string(worst * 0x1p13));
}

TEST(CudaScaledGemm, AddsBiasesWeighsRowsAndTakesScalesOfTokens) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const DType dst : {DType::F32, DType::Bf16})
    for (const int64_t capacity : {0, 130}) {
      ScaledCase c{.counts = kCounts, .n = 328, .k = 720, .dst = dst, .capacity = capacity};
      c.bias = c.row_weights = true;
      expect_close(c);
      c.slots_per_row = 3;
      expect_close(c);
    }
}

TEST(CudaScaledGemm, BitsDependOnNeitherConfigurationNorLayoutNorMultiprocessors) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const DType dst : {DType::F32, DType::Bf16}) {
    ScaledCase c{.counts = kCounts, .n = 328, .k = 1040, .dst = dst};
    const auto expected = run_on_gpu(c);
    for (const GemmConfig& config : kGemmConfigs) {
      c.config = &config;
      if (!config.scaled()) {
        EXPECT_THROW(run_on_gpu(c), Error) << describe(config);
        continue;
      }
      EXPECT_EQ(run_on_gpu(c), expected) << describe(config);
      c.capacity = 130;
      EXPECT_EQ(run_on_gpu(c), expected) << describe(config) << ", masked";
      c.capacity = 0;
    }
    c.config = nullptr;
    for (const int num_sms : {1, 7}) {
      c.num_sms = num_sms;
      EXPECT_EQ(run_on_gpu(c), expected) << num_sms << " SMs";
    }
  }
}

// The codes and scales of every expert's rows; what is not theirs is untouched.
struct Activated {
  std::vector<float> codes, scales;
  bool operator==(const Activated&) const = default;
};

Activated activate_on_gpu(const ScaledCase& its_case, const Activation& activation,
                          GateUpOrder order) {
  ScaledProblem p(its_case);
  testing::CudaCopies place;
  const int64_t capacity = p.first[p.experts];
  const int64_t width = activation.gated() ? p.c.n / 2 : p.c.n;
  CudaBuffer<F8E4m3> dst(Shape{capacity, width});
  CudaBuffer<float> scales(Shape{capacity, (width + kQuantGroup - 1) / kQuantGroup});
  CudaBuffer<float> sums(Shape{capacity, p.c.n});
  ScaledGemm g = p.gemm(place);
  g.dst = dst.view(), g.dst_scales = scales.view(), g.sums = sums.view();
  g.activation = &activation, g.order = order;
  if (p.c.config) {
    cuda::launch_gemm(*p.c.config, g, describe_device(DeviceKind::Cuda).num_sms, nullptr);
  } else {
    testing::cuda_ops().run(g, nullptr);
  }
  return {rows_of(p, dst.host(), width), rows_of(p, scales.host(), scales.view().dim(1))};
}

// What GEMM1 of fp8 is where an expert has few rows: sums in memory, then a kernel that quantises.
Activated in_two_steps(ScaledCase c, const Activation& activation, GateUpOrder order) {
  c.config = nullptr;
  c.max_rows = 0;
  return activate_on_gpu(c, activation, order);
}

const GemmConfig& config_of_codes() {
  return *std::ranges::find_if(kGemmConfigs, &GemmConfig::rows_first);
}

TEST(CudaScaledGemm, QuantisesInItsEpilogueWithTheBitsOfTwoSteps) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  constexpr int64_t kWhole = ScaleBlock::kWhole;
  for (const auto kind : Activations::kAll) {
    const Activation activation{kind, 1.702f, 1.5f};
    if (!activation.gated()) continue;
    for (const ScaleBlock weights :
         {ScaleBlock{128, 128}, ScaleBlock{1, kWhole}, ScaleBlock{kWhole, kWhole}})
      for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate})
        for (const int64_t capacity : {0, 130}) {
          ScaledCase c{
              .counts = kCounts, .n = 768, .k = 272, .weight_block = weights, .capacity = capacity};
          c.bias = c.row_weights = order == GateUpOrder::UpGate;
          const Activated expected = in_two_steps(c, activation, order);
          c.config = &config_of_codes();
          EXPECT_EQ(activate_on_gpu(c, activation, order), expected)
              << activation_name(kind) << ", blocks of " << weights.rows << "x" << weights.cols
              << ", capacity " << capacity;
        }
  }
}

TEST(CudaScaledGemm, QuantisesTheSameBitsOfFewRowsAndOfMany) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  const Activation activation{ActivationKind::SiluGated};
  for (const int64_t n : {256, 512, 720}) {  // 720: columns that are no whole groups
    ScaledCase c{.counts = {700}, .n = n, .k = 512};
    const Activated many = activate_on_gpu(c, activation, GateUpOrder::GateUp);
    c.counts = {3};
    const Activated few = activate_on_gpu(c, activation, GateUpOrder::GateUp);
    EXPECT_TRUE(std::ranges::equal(few.codes, std::span(many.codes).first(few.codes.size())));
    EXPECT_TRUE(std::ranges::equal(few.scales, std::span(many.scales).first(few.scales.size())));
  }
}

TEST(CudaScaledGemm, AConfigurationThatCannotQuantiseIsRefused) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  ScaledCase c{.counts = {3}, .n = 720, .k = 128};
  for (const GemmConfig& config : kGemmConfigs) {
    if (!config.scaled()) continue;
    c.config = &config;
    EXPECT_THROW(activate_on_gpu(c, {ActivationKind::SiluGated}, GateUpOrder::GateUp), Error)
        << describe(config);
  }
}

TEST(CudaScaledGemm, ARowHasTheSameBitsAloneAndAmongThousands) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  ScaledCase c{.counts = {3000}, .n = 256, .k = 1024};
  const auto all = run_on_gpu(c);
  c.counts = {1};
  const auto one = run_on_gpu(c);
  EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin()));
}

TEST(CudaScaledGemm, RefusesRowsThatTheCopyEngineCannotTake) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  ScaledCase c{.counts = {3}, .n = 64, .k = 24};
  EXPECT_THROW(run_on_gpu(c), Error);
}

}  // namespace
}  // namespace switchyard
