// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// Whole layers on the GPU over random shapes and routings, against float64 on sampled tokens: every
// valid element written, nothing else touched, equal bits in every layout.
//
// SWITCHYARD_RANDOM_LAYERS=N: how many (default 12, small ones); from 100 on also the large shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/cuda_buffer.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::CudaBuffer;
using testing::Skew;

constexpr uint64_t kSeed = 20261125;
constexpr int64_t kMaskedLimit =
    (int64_t{8} << 30) - (int64_t{64} << 20);  // maps and ids take the rest
constexpr int64_t kNumSampled = 8;

struct LayerCase {
  MoeConfig config;
  int64_t tokens = 0;
  Skew skew = Skew::Balanced;
};

std::ostream& operator<<(std::ostream& os, const LayerCase& c) {
  return os << describe(c.config) << ", " << c.tokens << " tokens, " << skew_name(c.skew);
}

// Of the shapes that the layer is accepted on; weights of at most `weight_limit` bytes.
LayerCase draw(std::mt19937_64& rng, int64_t weight_limit) {
  const auto one_of = [&rng](std::initializer_list<int64_t> list) {
    return *(list.begin() + rng() % list.size());
  };
  constexpr Skew kSkews[] = {Skew::Balanced,    Skew::Zipf,          Skew::OneHot,
                             Skew::SameExperts, Skew::FirstHalfOnly, Skew::SomeMissing};
  for (;;) {
    LayerCase c;
    c.config.hidden = one_of({64, 704, 2880, 7168});
    c.config.intermediate = one_of({96, 704, 1408, 2880});
    c.config.num_experts = one_of({1, 8, 60, 512});
    c.config.top_k = one_of({1, 2, 8, 10});
    c.tokens = one_of({0, 1, 3, 127, 129, 1000, 8192});
    c.skew = kSkews[rng() % std::size(kSkews)];
    if (c.config.top_k <= c.config.num_experts && weight_bytes(c.config, 1) <= weight_limit)
      return c;
  }
}

struct Problem {
  explicit Problem(const LayerCase& c, uint64_t seed)
      : host_weights(random_weights(c.config, 1, 0, seed)),
        weights(to_device(host_weights, c.config, 1, testing::cuda_backend())),
        hidden(testing::random_bf16({c.tokens, c.config.hidden}, seed + 1)),
        ids(testing::random_ids(c.tokens, c.config.num_experts, c.config.top_k, c.skew, seed + 2)),
        router_weights(testing::random_f32({c.tokens, c.config.top_k}, seed + 3, 0.1f, 1.0f)) {}

  LayerWeights host_weights, weights;
  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;
  Buffer<float> router_weights;
};

// In a lent workspace between guards.
Buffer<Bf16> run(const LayerCase& c, const Problem& p, const std::string& strategy) {
  LayerOptions options;
  options.device = DeviceKind::Cuda;
  options.max_tokens = c.tokens;
  options.strategy = strategy;
  const auto bytes = MoeLayer::workspace_bytes(c.config, 1, options);
  const auto num_words = static_cast<int64_t>(bytes / 4);
  CudaBuffer<int32_t> workspace({num_words});
  options.workspace = {workspace.view().data, bytes};
  const auto layer = MoeLayer::create(c.config, p.weights, options);

  CudaBuffer<Bf16> hidden(p.hidden), output({c.tokens, c.config.hidden});
  CudaBuffer<int32_t> ids(p.ids);
  CudaBuffer<float> weights(p.router_weights);
  layer->forward({.output = output.view(),
                  .hidden = hidden.view(),
                  .ids = ids.view(),
                  .weights = weights.view()});
  layer->wait();
  EXPECT_TRUE(workspace.host().guards_intact()) << strategy;
  EXPECT_TRUE(testing::same_bits(hidden.host(), p.hidden)) << strategy;
  EXPECT_TRUE(testing::same_bits(ids.host(), p.ids)) << strategy;
  EXPECT_TRUE(output.host().guards_intact()) << strategy;
  return output.host();
}

template <class T>
Buffer<T> pick(const Buffer<T>& rows, int64_t width, const std::vector<int64_t>& which) {
  Buffer<T> picked({static_cast<int64_t>(which.size()), width});
  for (size_t i = 0; i < which.size(); ++i)
    std::copy_n(rows.data() + which[i] * width, width,
                picked.data() + static_cast<int64_t>(i) * width);
  return picked;
}

void expect_close_to_float64(const LayerCase& c, const Problem& p, const Buffer<Bf16>& output) {
  if (c.tokens == 0) return;
  std::vector<int64_t> which{0, c.tokens - 1};
  std::mt19937_64 rng(kSeed);
  while (static_cast<int64_t>(which.size()) < std::min(kNumSampled, c.tokens))
    which.push_back(static_cast<int64_t>(rng() % static_cast<uint64_t>(c.tokens)));
  const auto x = pick(p.hidden, c.config.hidden, which), y = pick(output, c.config.hidden, which);
  const auto ids = pick(p.ids, c.config.top_k, which);
  const auto weights = pick(p.router_weights, c.config.top_k, which);
  Buffer<double> expected({static_cast<int64_t>(which.size()), c.config.hidden});
  oracle_forward(expected.view(), c.config, p.host_weights, x.view(), ids.view(), weights.view());
  const auto d = compare(y.view(), std::as_const(expected).view());
  EXPECT_LE(d.rel_error, 4e-3);
  EXPECT_LE(d.max_row_error, 2e-2) << "sampled row " << d.worst_row;
}

void expect_written(const Buffer<Bf16>& output) {
  for (int64_t i = 0; i < output.count(); ++i)
    ASSERT_TRUE(std::isfinite(static_cast<float>(output[i]))) << "element " << i;
}

TEST(RandomLayers, AreRightOnEveryShapeAndSkewInEveryLayout) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const char* asked = std::getenv("SWITCHYARD_RANDOM_LAYERS");
  const int num_layers = asked ? std::atoi(asked) : 12;
  const int64_t weight_limit = num_layers >= 100 ? int64_t{9} << 30 : int64_t{64} << 20;
  std::mt19937_64 rng(kSeed);
  int num_masked = 0;
  for (int i = 0; i < num_layers; ++i) {
    // Large weights take seconds to make: one in eight is enough.
    const LayerCase c =
        draw(rng, i % 8 == 0 ? weight_limit : std::min(weight_limit, int64_t{512} << 20));
    SCOPED_TRACE(::testing::Message() << "layer " << i << " of seed " << kSeed << ": " << c);
    const Problem p(c, kSeed + static_cast<uint64_t>(i));
    const auto contiguous = run(c, p, "contiguous");
    expect_written(contiguous);
    expect_close_to_float64(c, p, contiguous);
    EXPECT_TRUE(testing::same_bits(run(c, p, "contiguous"), contiguous)) << "a second time";
    EXPECT_TRUE(testing::same_bits(run(c, p, "hybrid"), contiguous)) << "hybrid";
    const int64_t masked_bytes = c.config.num_experts * c.tokens *
                                 (c.config.hidden + c.config.intermediate) * int64_t{sizeof(Bf16)};
    if (masked_bytes > kMaskedLimit) continue;
    ++num_masked;
    EXPECT_TRUE(testing::same_bits(run(c, p, "masked"), contiguous)) << "masked";
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(num_masked, 0) << "no layer was small enough for the masked layout";
}

}  // namespace
}  // namespace switchyard
