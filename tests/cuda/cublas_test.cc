// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/cublas_test.cc -- grouped GEMMs by cuBLAS against the plain form of the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/backend.h"
#include "cpu/grouped_gemm.h"
#include "switchyard/error.h"
#include "testing/cuda_buffer.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::CudaBuffer;

const int32_t kCounts[] = {3, 0, 7, 1, 0};
constexpr int64_t kExperts = 5, kInner = 72, kCapacity = 8;

struct Case {
  Layout layout = Layout::Masked;
  int64_t n = 48;  // rows of the weights of an expert
  const Activation* activation = nullptr;
  GateUpOrder order = GateUpOrder::GateUp;
  DType dst = DType::Bf16;
  bool bias = false, row_weights = false;

  bool gated() const { return activation != nullptr && activation->gated(); }
  int64_t width() const { return gated() ? n / 2 : n; }
  bool needs_epilogue() const { return activation != nullptr || bias || row_weights; }
  bool holds_sums() const { return dst == DType::F32 && !gated(); }
};

// Operands on the host; rows of src that no expert owns hold NaN.
struct Operands {
  explicit Operands(const Case& c) : first_row({kExperts + 1}), counts({kExperts}) {
    const bool masked = c.layout == Layout::Masked;
    first_row[0] = 0;
    for (int64_t e = 0; e < kExperts; ++e) {
      counts[e] = kCounts[e];
      first_row[e + 1] = first_row[e] + (masked ? kCapacity : (kCounts[e] + 3) / 4 * 4);
    }
    rows = first_row[kExperts] + (masked ? 0 : 4);  // and a tail that nobody owns
    src = Buffer<Bf16>({rows, kInner});
    const auto random = testing::random_bf16({rows, kInner}, 1);
    for (int64_t e = 0; e < kExperts; ++e)
      std::copy_n(random.data() + first_row[e] * kInner, counts[e] * kInner,
                  src.data() + first_row[e] * kInner);
    weights = testing::random_bf16({kExperts, c.n, kInner}, 2, 0.3f);
    bias = testing::random_f32({kExperts, c.n}, 3);
    row_weights = testing::random_f32({rows, 2}, 4, 0.1f, 1.0f);
    slot_of_row = Buffer<int32_t>({rows});
    for (int64_t r = 0; r < rows; ++r) slot_of_row[r] = static_cast<int32_t>((r * 7) % (2 * rows));
  }

  bool owned(int64_t row) const {
    for (int64_t e = 0; e < kExperts; ++e)
      if (row >= first_row[e] && row < first_row[e] + counts[e]) return true;
    return false;
  }

  Buffer<int64_t> first_row;
  Buffer<int32_t> counts;
  int64_t rows = 0;
  Buffer<Bf16> src, weights;
  Buffer<float> bias, row_weights;
  Buffer<int32_t> slot_of_row;
};

GroupedGemm shape_of(const Case& c, const Operands& o) {
  GroupedGemm g;
  g.layout = c.layout;
  g.max_rows = o.rows;
  g.activation = c.activation;
  g.order = c.order;
  return g;
}

template <class T>
Buffer<T> run_on_cpu(const Case& c, Operands& o) {
  Buffer<T> dst({o.rows, c.width()});
  GroupedGemm g = shape_of(c, o);
  g.dst = dst.view();
  g.src = o.src.view();
  g.weights = o.weights.view();
  g.groups = {o.counts.view(), o.first_row.view()};
  if (c.bias) g.bias = o.bias.view();
  if (c.row_weights) g.row_weights = o.row_weights.view(), g.slot_of_row = o.slot_of_row.view();
  cpu::grouped_gemm_plain(g);
  return dst;
}

template <class T>
Buffer<T> run_on_gpu(const Case& c, const Operands& o) {
  CudaBuffer<T> dst(Shape{o.rows, c.width()});
  CudaBuffer<Bf16> src(o.src), weights(o.weights);
  CudaBuffer<int64_t> first_row(o.first_row);
  CudaBuffer<int32_t> counts(o.counts), slot_of_row(o.slot_of_row);
  CudaBuffer<float> bias(o.bias), row_weights(o.row_weights), scratch(Shape{o.rows, c.n});
  GroupedGemm g = shape_of(c, o);
  g.provider = GemmProvider::Cublas;
  g.host_counts = c.layout == Layout::Contiguous;
  g.dst = dst.view();
  g.src = src.view();
  g.weights = weights.view();
  g.groups = {counts.view(), first_row.view()};
  if (c.bias) g.bias = bias.view();
  if (c.row_weights) g.row_weights = row_weights.view(), g.slot_of_row = slot_of_row.view();
  if (c.needs_epilogue() && !c.holds_sums()) g.scratch = scratch.view();
  testing::cuda_backend().ops().run(g, nullptr);
  EXPECT_TRUE(scratch.host().guards_intact());
  return dst.host();
}

// One step of T, and what fp32 sums of 72 products near 1 may differ by.
template <class T>
bool close(T a, T b) {
  const auto x = static_cast<float>(a), y = static_cast<float>(b);
  const float step = std::is_same_v<T, Bf16> ? 0x1p-7f : 1e-5f;
  return std::fabs(x - y) <= step * std::fabs(y) + 2e-5f;
}

template <class T>
void expect_same(const Case& c) {
  Operands o(c);
  const auto expected = run_on_cpu<T>(c, o), actual = run_on_gpu<T>(c, o);
  EXPECT_TRUE(actual.guards_intact());
  // cuBLAS alone writes all of a masked block; the epilogue writes what is owned.
  const bool keeps_padding =
      c.layout == Layout::Contiguous || (c.needs_epilogue() && !c.holds_sums());
  for (int64_t r = 0; r < o.rows; ++r)
    for (int64_t j = 0; j < c.width(); ++j) {
      const T got = actual[r * c.width() + j], want = expected[r * c.width() + j];
      if (o.owned(r)) {
        ASSERT_TRUE(close(got, want))
            << "row " << r << ", column " << j << ": " << static_cast<float>(got) << ", "
            << static_cast<float>(want);
      } else if (keeps_padding) {
        ASSERT_EQ(std::memcmp(&got, &want, sizeof(T)), 0) << "padding row " << r;
      }
    }
}

void expect_same_in_both_types(Case c) {
  c.dst = DType::Bf16;
  expect_same<Bf16>(c);
  c.dst = DType::F32;
  expect_same<float>(c);
}

class CublasGemm : public ::testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, CublasGemm, ::testing::Values(Layout::Masked, Layout::Contiguous),
                         [](const auto& info) { return layout_name(info.param); });

TEST_P(CublasGemm, PlainAndWithEveryEpilogue) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t n : {8, 48, 50, 129})  // with and without vectors of four
    for (const bool bias : {false, true})
      for (const bool row_weights : {false, true})
        expect_same_in_both_types(
            {.layout = GetParam(), .n = n, .bias = bias, .row_weights = row_weights});
}

TEST_P(CublasGemm, EveryActivationInBothOrders) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto kind : Activations::kAll) {
    const Activation activation{.kind = kind, .limit = 0.5f};  // reached by some sums
    for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate})
      for (const int64_t n : {48, 1040, 28})
        expect_same_in_both_types({.layout = GetParam(),
                                   .n = n,
                                   .activation = &activation,
                                   .order = order,
                                   .bias = true,
                                   .row_weights = true});
  }
}

TEST(CublasErrors, SayWhatIsMissing) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const Case c{.layout = Layout::Contiguous};
  const Operands o(c);
  CudaBuffer<Bf16> dst(Shape{o.rows, c.n}), src(o.src), weights(o.weights);
  CudaBuffer<int64_t> first_row(o.first_row);
  CudaBuffer<int32_t> counts(o.counts);
  CudaBuffer<float> bias(o.bias);
  GroupedGemm g = shape_of(c, o);
  g.provider = GemmProvider::Cublas;
  g.dst = dst.view();
  g.src = src.view();
  g.weights = weights.view();
  g.groups = {counts.view(), first_row.view()};
  const auto refused = [&](Errc code) {
    try {
      testing::cuda_backend().ops().run(g, nullptr);
    } catch (const Error& e) {
      return e.code() == code;
    }
    return false;
  };
  EXPECT_TRUE(refused(Errc::Unsupported));  // no host counts
  g.host_counts = true;
  g.bias = bias.view();
  EXPECT_TRUE(refused(Errc::ShapeMismatch));  // bf16 cannot hold the sums
}

}  // namespace
}  // namespace switchyard
