// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/small_ops_test.cc
#include <gtest/gtest.h>

#include <cmath>

#include "testing/both.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::cuda_ops;
using testing::good_status;
using testing::run_on_both;

constexpr uint64_t kSeed = 20254;
constexpr int64_t kCounts[] = {0, 1, 7, 255, 257, 100'003, 700'001};

TEST(CudaSingleGroup, OwnsAllRows) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Both<int32_t> counts({1});
  Both<int64_t> first_row({2});
  run_on_both([&](auto at) { return SingleGroup{{at(counts), at(first_row)}, 17}; });
  EXPECT_TRUE(counts.same() && first_row.same());
}

TEST(CudaSigmoid, IsAccurateAndSaturatesWithoutNaN) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t count : kCounts) {
    auto x = testing::random_f32({count, 1}, kSeed, -100.0f, 100.0f);
    if (count > 2) x[0] = 200, x[1] = -200, x[2] = 0;
    Both<float> src(x), dst({count, 1});
    cuda_ops().run(Sigmoid{dst.gpu(), src.gpu()}, nullptr);
    const auto& y = dst.computed();
    EXPECT_TRUE(y.guards_intact());
    for (int64_t i = 0; i < count; ++i) {
      // exp is right to 2 ulp, the addition and the division to half of one. Below e^-87 fp32 has
      // fewer bits, so there the difference counts.
      const double exact = 1 / (1 + std::exp(-static_cast<double>(x[i])));
      ASSERT_NEAR(y[i], exact, 4 * 0x1p-23 * exact + 0x1p-126) << "seed " << kSeed << ", " << x[i];
    }
  }
}

TEST(CudaFillAndCopy, CoverTheirTensorOnly) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t count : kCounts) {
    Both<int32_t> a({count}), b({count});
    run_on_both([&](auto at) { return FillI32{at(a), -7}; });
    EXPECT_TRUE(a.same());
    run_on_both([&](auto at) { return Copy{at(b), at(a)}; });
    EXPECT_TRUE(b.same());
  }
}

TEST(CudaWriteI32, AnyNumberOfWordsArrives) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t count : {0, 1, 959, 960, 961, 5000}) {
    Both<int32_t> a({count});
    std::vector<int32_t> words(static_cast<size_t>(count));
    for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<int32_t>(i * 2654435761u);
    run_on_both([&](auto at) { return WriteI32{at(a), words.data()}; });
    EXPECT_TRUE(a.same()) << count << " words";
  }
}

TEST(CudaCopyRows, KeepsTheGaps) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {1, 3, 700})
    for (const int64_t width : {8, 136, 2048}) {
      Both<Bf16> src(testing::random_bf16({rows, width + 24}, kSeed)), dst({rows, width + 8});
      run_on_both([&](auto at) {
        Tensor to = at(dst), from = at(src);
        to.shape = from.shape = {rows, width};
        return CopyRows{to, from, width + 8, width + 24};
      });
      EXPECT_TRUE(dst.same()) << rows << " x " << width;
    }
}

template <class From, class To>
void expect_arranged(Buffer<From> given, bool transposed, bool interleaved) {
  const Shape s = given.view().shape;
  Both<From> src(std::move(given));
  Both<To> dst(transposed ? Shape{s[0], s[2], s[1]} : s);
  run_on_both([&](auto at) { return ArrangeWeights{at(dst), at(src), transposed, interleaved}; });
  EXPECT_TRUE(dst.same()) << s[0] << " x " << s[1] << " x " << s[2] << ", " << transposed << ", "
                          << interleaved;
}

TEST(CudaArrangeWeights, TakesEveryLayout) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto& [rows, width] : {std::pair{2, 8}, {34, 40}, {256, 72}, {70, 1}, {1536, 200}})
    for (const bool transposed : {false, true})
      for (const bool interleaved : {false, true}) {
        const Shape shape = transposed ? Shape{3, width, rows} : Shape{3, rows, width};
        expect_arranged<Bf16, Bf16>(testing::random_bf16(shape, kSeed), transposed, interleaved);
        expect_arranged<Bf16, float>(testing::random_bf16(shape, kSeed), transposed, interleaved);
        expect_arranged<float, float>(testing::random_f32(shape, kSeed), transposed, interleaved);
      }
}

TEST(CudaPoison, FillsTheOutputWithNaNOnlyAfterAnError) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t count : kCounts) {
    Both<Bf16> x(testing::random_bf16({count}, kSeed));
    auto good = good_status(), bad = Both<int32_t>::of({7, 0, 0, 0, 0});
    run_on_both([&](auto at) { return Poison{at(x), at(good)}; });
    EXPECT_TRUE(x.same()) << count;
    run_on_both([&](auto at) { return Poison{at(x), at(bad)}; });
    EXPECT_TRUE(x.same()) << count;
  }
}

}  // namespace
}  // namespace switchyard
