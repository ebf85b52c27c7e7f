// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/router_logits_test.cc -- the logits are the product, and their bits depend neither
// on how many tokens there are nor on their place.
#include <gtest/gtest.h>

#include <cmath>

#include "testing/both.h"
#include "testing/cuda_layer.h"

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

  // [count, rows] of tokens from `first` on.
  Buffer<float> run(int64_t first, int64_t count, Ops* ops = &cuda_ops()) {
    CudaBuffer<float> logits(Shape{count, problem.rows});
    CudaBuffer<int32_t> counts(Shape{1});
    CudaBuffer<int64_t> first_row(Shape{2});
    ops->run(RouterLogits{logits.view(),
                          gpu_hidden_.view().rows(first, count),
                          gpu_weights_.view(),
                          {counts.view(), first_row.view()}},
             nullptr);
    Buffer<float> host = logits.host();
    EXPECT_TRUE(host.guards_intact());
    return host;
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

TEST(CudaRouterLogits, AreTheProduct) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const Problem& p :
       {Problem{1, 128, 2048}, Problem{7, 1, 8}, Problem{8, 5, 264}, Problem{9, 64, 128},
        Problem{33, 100, 4096}, Problem{64, 257, 512}, Problem{65, 60, 4104},
        Problem{130, 384, 5128}, Problem{4000, 70, 264}, Problem{2200, 120, 1048}}) {
    SCOPED_TRACE(::testing::Message() << p.tokens << " x " << p.rows << " x " << p.hidden);
    Router router(p);
    router.expect_product(router.run(0, p.tokens));
  }
}

// Few tokens and many take other kernels.
TEST(CudaRouterLogits, ATokenHasTheSameBitsAloneAndAmongMany) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const int64_t hidden : {int64_t{520}, int64_t{3072}}) {
    Router router({2800, 96, hidden});
    const Buffer<float> all = router.run(0, 2800);
    for (const int64_t token : {0, 1, 63, 64, 149, 2799})
      for (const int64_t count : {1, 9, 64}) {
        const int64_t first = std::min<int64_t>(token, 2800 - count);
        const Buffer<float> few = router.run(first, count);
        for (int64_t i = 0; i < few.count(); ++i)
          ASSERT_EQ(few[i], all[first * 96 + i]) << count << " tokens from " << first;
      }
  }
}

TEST(CudaRouterLogits, OfABackendOfFewMultiprocessorsAreTheSame) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  Router router({2800, 96, 520});
  const Buffer<float> all = router.run(0, 2800);
  for (const int num_sms : {1, 3}) {
    const auto backend = make_cuda_backend({.num_sms = num_sms});
    const Buffer<float> few = router.run(0, 2800, &backend->ops());
    for (int64_t i = 0; i < all.count(); ++i) ASSERT_EQ(few[i], all[i]) << num_sms;
  }
}

TEST(CudaRouterLogits, OfNoTokensAreNone) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  Router router({1, 16, 64});
  EXPECT_EQ(router.run(0, 0).count(), 0);
}

}  // namespace
}  // namespace switchyard::testing
