// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/router_logits_test.cc -- the logits are the product, and their bits depend neither on
// who adds the chunks nor on the tokens beside.
#include <gtest/gtest.h>

#include <cmath>

#include "plan/capacity.h"
#include "testing/both.h"

namespace switchyard::testing {
namespace {

constexpr uint64_t kSeed = 1130;

struct Problem {
  int64_t tokens, rows, hidden;
};

class Router {
 public:
  explicit Router(const Problem& p)
      : problem(p),
        hidden(random_bf16({p.tokens, p.hidden}, kSeed)),
        weights(random_bf16({p.rows, p.hidden}, kSeed + 1)),
        gpu_hidden_(hidden),
        gpu_weights_(weights) {}

  int64_t chunks() const { return ceil_div(problem.hidden, router_chunk(problem.hidden)); }

  // [tokens, splits * rows] of tokens from `first` on.
  Buffer<float> run(int64_t splits, int64_t first, int64_t count) {
    CudaBuffer<float> logits(Shape{count, splits * problem.rows});
    cuda_ops().run(RouterLogits{logits.view(), gpu_hidden_.view().rows(first, count),
                                gpu_weights_.view(), static_cast<int>(splits)},
                   nullptr);
    Buffer<float> host = logits.host();
    EXPECT_TRUE(host.guards_intact());
    return host;
  }

  // As the gate adds them.
  Buffer<float> added(const Buffer<float>& split, int64_t splits) const {
    const int64_t rows = problem.rows, count = split.count() / (splits * rows);
    Buffer<float> sums(Shape{count, rows});
    for (int64_t t = 0; t < count; ++t)
      for (int64_t n = 0; n < rows; ++n) {
        float sum = 0;
        for (int64_t s = 0; s < splits; ++s) sum += split[(t * splits + s) * rows + n];
        sums[t * rows + n] = sum;
      }
    return sums;
  }

  void expect_product(const Buffer<float>& logits) const {
    for (int64_t t = 0; t < problem.tokens; ++t)
      for (int64_t n = 0; n < problem.rows; ++n) {
        double sum = 0, size = 0;
        for (int64_t h = 0; h < problem.hidden; ++h) {
          const double product =
              static_cast<double>(static_cast<float>(hidden[t * problem.hidden + h])) *
              static_cast<double>(static_cast<float>(weights[n * problem.hidden + h]));
          sum += product, size += std::abs(product);
        }
        const double logit = static_cast<double>(logits[t * problem.rows + n]);
        ASSERT_NEAR(logit, sum, 1e-6 * size) << "token " << t << ", row " << n;
      }
  }

  const Problem problem;
  Buffer<Bf16> hidden, weights;

 private:
  CudaBuffer<Bf16> gpu_hidden_, gpu_weights_;
};

TEST(CudaRouterLogits, AreTheProductWhoeverAddsTheChunks) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const Problem& p :
       {Problem{1, 128, 2048}, Problem{7, 1, 8}, Problem{8, 5, 264}, Problem{9, 64, 256},
        Problem{33, 100, 4096}, Problem{64, 257, 512}, Problem{65, 60, 4104},
        Problem{130, 384, 5128}}) {
    SCOPED_TRACE(::testing::Message() << p.tokens << " x " << p.rows << " x " << p.hidden);
    Router router(p);
    const Buffer<float> whole = router.run(1, 0, p.tokens);
    router.expect_product(whole);
    const Buffer<float> split = router.run(router.chunks(), 0, p.tokens);
    EXPECT_TRUE(same_bits(router.added(split, router.chunks()), whole));
  }
}

TEST(CudaRouterLogits, ATokenHasTheSameBitsAlone) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Router router({150, 96, 3072});
  const Buffer<float> all = router.run(1, 0, 150);
  for (const int64_t token : {0, 1, 63, 64, 149}) {
    const Buffer<float> alone = router.added(router.run(router.chunks(), token, 1), router.chunks());
    for (int64_t n = 0; n < 96; ++n)
      ASSERT_EQ(alone[n], all[token * 96 + n]) << "token " << token << ", row " << n;
  }
}

TEST(CudaRouterLogits, OfNoTokensAreNone) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Router router({1, 16, 64});
  EXPECT_EQ(router.run(1, 0, 0).count(), 0);
}

}  // namespace
}  // namespace switchyard::testing
