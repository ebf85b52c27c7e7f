// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/linear_attention_test.cc -- paged linear attention on the GPU: float64, every bound of
// the block map, the CPU's bits, captured graphs.
#include <gtest/gtest.h>

#include <cstdlib>

#include "testing/cuda_graph.h"
#include "testing/cuda_layer.h"
#include "testing/prefill_states.h"

namespace switchyard::testing {
namespace {

// compute-sanitizer is a hundred times slower.
const bool kSmall = std::getenv("SWITCHYARD_SMALL") != nullptr;

std::unique_ptr<LinearAttention> cuda_attention() {
  return LinearAttention::create(shared_cuda_backend(), 600);
}

constexpr std::pair<int64_t, int64_t> kBlockShapes[] = {{16, 4}, {1, 3}, {2, 1}, {2048, 4}};

TEST(CudaConvDecode, IsFloat64sForTheReferencesSizes) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int64_t batch : {1, 2, 10, 16, 32})
    for (const int64_t n : {1, 2, 4}) {
      if (kSmall && batch != 2) continue;
      ConvProblem p;
      p.paged = random_batch(batch, n, 128, static_cast<uint64_t>(batch * 10 + n));
      p.dim = 4096, p.num_tokens = n, p.flat = n == 1 && batch == 10;
      expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
    }
}

// More sequences than one block per tile and sequence: blocks walk them.
TEST(CudaConvDecode, WalksLargeBatches) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  if (kSmall) GTEST_SKIP() << "SWITCHYARD_SMALL";
  const auto attention = cuda_attention();
  ConvProblem p;
  p.paged = random_batch(600, 2, 128, 4);
  for (size_t b = 0; b < p.paged.lengths.size(); b += 7)
    p.paged.lengths[b] = static_cast<int32_t>(b % 3) - 1 + (b % 2 == 0 ? 0 : 2000);
  p.paged.sparse_tokens = 2;
  p.dim = 4096 + 8, p.num_tokens = 2;
  expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
}

TEST(CudaConvDecode, TakesEveryWidthTypeAndActivation) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  uint64_t seed = 1;
  for (const int64_t width : {2, 3, 4, 5, 6})
    for (const int64_t n : {1, 2, 3, 4})
      for (const int64_t dim : {8, 64, 520, 1032}) {
        if (kSmall && dim != 520) continue;
        ConvProblem p;
        p.paged = random_batch(3, n, 5, ++seed);
        p.dim = dim, p.width = width, p.num_tokens = n, p.bias = dim != 64, p.seed = seed;
        p.activation = dim == 520 ? ConvActivation::None : ConvActivation::Silu;
        p.block_gap = dim == 8 ? 8 : 0;
        expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
        expect_conv<float, float, CudaBuffer>(*attention, p);
        expect_conv<float, Bf16, CudaBuffer>(*attention, p);
        expect_conv<Bf16, float, CudaBuffer>(*attention, p);
      }
}

// Sums round alike; only the exponential differs.
TEST(CudaConvDecode, GivesTheCpusBitsWithoutActivation) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto gpu = cuda_attention();
  const auto cpu = LinearAttention::create(make_cpu_backend(1), 600);
  for (const int64_t n : {1, 4}) {
    ConvProblem p;
    p.paged = boundary_batch();
    p.dim = 1032, p.num_tokens = n, p.activation = ConvActivation::None;
    ConvStep<Bf16, Bf16, CudaBuffer> on_gpu(p);
    ConvStep<Bf16, Bf16, Buffer> on_cpu(p);
    gpu->conv_decode(on_gpu.args());
    cpu->conv_decode(on_cpu.args());
    EXPECT_EQ(gpu->wait_status(), cpu->wait_status());
    EXPECT_TRUE(same_bits(on_gpu.pool(), on_cpu.pool()));
    const auto &a = on_gpu.output(), &b = on_cpu.output();
    int64_t different = 0;  // a NaN has no fixed bits
    for (int64_t i = 0; i < a.count(); ++i)
      different +=
          a[i].bits() != b[i].bits() && !(std::isnan(number(a[i])) && std::isnan(number(b[i])));
    EXPECT_EQ(different, 0);
  }
}

TEST(CudaConvDecode, TouchesNothingBeyondEveryBound) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int64_t n : {1, 2, 3, 4})
    for (const auto& [s, slots] : kBlockShapes) {
      ConvProblem p;
      p.paged = boundary_batch(s, slots);
      p.num_tokens = n;
      expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
    }
}

// The cases that the reference's tests name.
TEST(CudaConvDecode, TheReferencesBounds) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int32_t length : {64, 65, 66, 67, 1000}) {
    ConvProblem p;
    p.paged.lengths = {length, 30};
    p.paged.row_stride = 5;
    expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
  }
  for (const int32_t length : {8191, 8192, 8193, 8194, 10000}) {
    ConvProblem p;
    p.paged.lengths = {length};
    p.paged.block_tokens = 2048;
    p.dim = 4096;
    expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
  }
}

TEST(CudaConvDecode, TouchesNothingBehindAnInvalidId) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int64_t n : {1, 2, 4}) {
    ConvProblem p;
    p.paged = bad_block_batch();
    p.num_tokens = n;
    expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);
    expect_conv<float, float, CudaBuffer>(*attention, p);
  }
}

TEST(CudaConvDecode, SharesReadBlocksAndRunsInPlace) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  ConvProblem p;
  p.paged.lengths = {17, 17, 17};
  p.paged.planted = {{0, 0, 13}, {1, 0, 13}, {2, 0, 13}};
  p.dim = 1032, p.num_tokens = 3;
  expect_conv<Bf16, Bf16, CudaBuffer>(*attention, p);

  ConvStep<Bf16, Bf16, CudaBuffer> apart(p), in_place(p);
  attention->conv_decode(apart.args());
  ConvDecode step = in_place.args();
  CudaBuffer<Bf16> both(step.x.shape);
  Buffer<Bf16> x(step.x.shape);
  copy_to_host(cuda_backend(), x.data(), step.x);
  copy_to_device(cuda_backend(), both.view(), x.data());
  step.x = both.view(), step.output = both.view();
  attention->conv_decode(step);
  EXPECT_TRUE(same_bits(both.host(), apart.output()));
  EXPECT_TRUE(same_bits(in_place.pool(), apart.pool()));
}

TEST(CudaConvPrefill, LeavesTheStateAfterEveryBlock) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (PrefillProblem p : prefill_problems()) {
    p.dim = 136;
    expect_prefill<Bf16, Bf16, CudaBuffer>(*attention, p);
    if (kSmall) continue;
    expect_prefill<float, Bf16, CudaBuffer>(*attention, p);
    expect_prefill<float, float, CudaBuffer>(*attention, p);
    expect_prefill<Bf16, float, CudaBuffer>(*attention, p);
  }
}

// More states than blocks that share them.
TEST(CudaConvPrefill, LeavesTheStatesOfALongPrompt) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  PrefillProblem p;
  p.prefix = {0, 3, 129}, p.num_new = {1000, 1, 700};
  p.block_tokens = 4, p.num_slots = 260, p.width = 6;
  expect_prefill<Bf16, Bf16, CudaBuffer>(*attention, p);
}

TEST(CudaDeltaRule, IsFloat64sForTheReferencesSizes) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int64_t batch : {1, 2, 5, 16, 64})
    for (const int64_t n : {1, 2, 4}) {
      if (kSmall && (batch != 1 || n != 2)) continue;
      DeltaProblem p;
      p.paged = random_batch(batch, n, 128, static_cast<uint64_t>(batch + n));
      p.paged.spare_blocks = 0, p.paged.sparse_tokens = n;
      p.key_heads = 16, p.value_heads = 32, p.key_dim = p.value_dim = 128, p.num_tokens = n;
      expect_delta<Bf16, CudaBuffer>(*attention, p);
    }
}

TEST(CudaDeltaRule, TakesAnyWidthNormScaleAndBeta) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  uint64_t seed = 1;
  for (const auto& [key_dim, value_dim] : {std::pair<int64_t, int64_t>{4, 1},
                                           {32, 32},
                                           {48, 80},
                                           {64, 64},
                                           {68, 31},
                                           {128, 33},
                                           {132, 17},
                                           {200, 16},
                                           {256, 5},
                                           {256, 128}})
    for (const int64_t n : {1, 2, 3, 4})
      for (const bool normalize : {false, true}) {
        if (kSmall && n != 3) continue;
        DeltaProblem p;
        p.paged = random_batch(2, n, 7, ++seed);
        p.paged.sparse_tokens = n;
        p.key_dim = key_dim, p.value_dim = value_dim, p.num_tokens = n;
        p.l2_normalize = normalize, p.beta_per_value = normalize, p.seed = seed;
        p.block_gap = normalize ? 12 : 0, p.row_gap = normalize ? 3 : 0;
        if (!normalize) p.scale = 0.7f;
        expect_delta<float, CudaBuffer>(*attention, p);
        expect_delta<Bf16, CudaBuffer>(*attention, p);
      }
}

TEST(CudaDeltaRule, TouchesNothingBeyondEveryBound) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int64_t n : {1, 2, 3, 4})
    for (const auto& [s, slots] : kBlockShapes) {
      DeltaProblem p;
      p.paged = boundary_batch(s, slots);
      p.num_tokens = n;
      expect_delta<float, CudaBuffer>(*attention, p);
      if (kSmall) continue;
      p.key_dim = 128, p.value_dim = 40;
      expect_delta<Bf16, CudaBuffer>(*attention, p);
    }
}

TEST(CudaDeltaRule, TouchesNothingBehindAnInvalidId) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  for (const int64_t n : {1, 2, 4}) {
    DeltaProblem p;
    p.paged = bad_block_batch();
    p.num_tokens = n;
    expect_delta<float, CudaBuffer>(*attention, p);
  }
}

TEST(CudaDeltaRule, SharesReadBlocks) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  DeltaProblem p;
  p.paged.lengths = {17, 17, 17};
  p.paged.planted = {{0, 0, 13}, {1, 0, 13}, {2, 0, 13}};
  p.num_tokens = 3;
  expect_delta<Bf16, CudaBuffer>(*attention, p);
}

template <class T>
bool same_rows(const Buffer<T>& a, const Buffer<T>& b, int64_t row, int64_t num_rows) {
  const int64_t size = a.count() / num_rows;
  return std::memcmp(a.data() + row * size, b.data() + row * size,
                     static_cast<size_t>(size) * sizeof(T)) == 0;
}

// Bit for bit, beside sequences that are refused and beside none.
TEST(CudaLinearAttention, OtherSequencesDoNotNotice) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  const std::vector<int32_t> with = {20, 66, 33, 1000, 5, 67}, without = {20, 0, 33, 0, 5, -4};
  for (const int64_t n : {1, 2, 4}) {
    DeltaProblem delta;
    delta.num_tokens = n, delta.paged.lengths = with;
    DeltaStep<Bf16, CudaBuffer> faulty(delta);
    delta.paged.lengths = without;
    DeltaStep<Bf16, CudaBuffer> absent(delta);
    ConvProblem conv;
    conv.dim = 520, conv.num_tokens = n, conv.paged.lengths = with;
    ConvStep<Bf16, Bf16, CudaBuffer> faulty_conv(conv);
    conv.paged.lengths = without;
    ConvStep<Bf16, Bf16, CudaBuffer> absent_conv(conv);
    attention->delta_rule_decode(faulty.args());
    attention->delta_rule_decode(absent.args());
    attention->conv_decode(faulty_conv.args());
    attention->conv_decode(absent_conv.args());
    attention->wait_status();
    EXPECT_TRUE(same_bits(faulty.pool(), absent.pool()));
    EXPECT_TRUE(same_bits(faulty_conv.pool(), absent_conv.pool()));
    for (const int64_t b : {0, 2, 4}) {
      EXPECT_TRUE(same_rows(faulty.output(), absent.output(), b, 6)) << b;
      EXPECT_TRUE(same_rows(faulty_conv.output(), absent_conv.output(), b, 6)) << b;
    }
  }
}

TEST(CudaLinearAttention, WaitNamesTheBound) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  DeltaProblem p;
  p.paged.lengths = {20, 30, 66};
  DeltaStep<Bf16, CudaBuffer> step(p);
  attention->delta_rule_decode(step.args());
  try {
    attention->wait();
    FAIL() << "no error";
  } catch (const switchyard::Error& e) {
    EXPECT_EQ(e.code(), Errc::BadState);
    EXPECT_STREQ(
        e.what(),
        "linear_attention: sequence=2 (1 at fault), the read slot is at or past num_slots; "
        "a write slot is at or past num_slots. Give the sequence blocks for all its "
        "tokens.");
  }
  EXPECT_NO_THROW(attention->wait()) << "it was thrown once";
}

// Both operations captured once, replayed with other lengths (faulty ones among them) on a pool
// that goes on from replay to replay: the bits and the words of eager calls.
TEST(CudaLinearAttention, AGraphReplaysWithOtherLengths) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = cuda_attention();
  const Stream stream;
  constexpr int64_t kBatch = 9;
  for (const int64_t n : {1, 4}) {
    ConvProblem conv;
    conv.dim = 1032, conv.num_tokens = n;
    conv.paged.lengths.assign(kBatch, 5);
    conv.paged.row_stride = 7;
    DeltaProblem delta;
    delta.num_tokens = n, delta.paged = conv.paged;
    ConvStep<Bf16, Bf16, CudaBuffer> conv_eager(conv), conv_replayed(conv);
    DeltaStep<Bf16, CudaBuffer> delta_eager(delta), delta_replayed(delta);
    const auto run = [&](auto& conv_step, auto& delta_step) {
      ConvDecode c = conv_step.args();
      DeltaRuleDecode d = delta_step.args();
      c.stream = d.stream = stream.get();
      attention->conv_decode(c);
      attention->delta_rule_decode(d);
    };
    SWITCHYARD_CUDA_CHECK(cudaDeviceSynchronize());  // tensors came by the default stream
    run(conv_eager, delta_eager);                    // loads the kernels
    run(conv_replayed, delta_replayed);
    attention->wait(stream.get());
    Graph graph(stream.get(), [&] { run(conv_replayed, delta_replayed); });

    std::mt19937_64 rng(5);
    for (int replay = 0; replay < (kSmall ? 5 : 100); ++replay) {
      std::vector<int32_t> lengths(kBatch);
      for (auto& each : lengths) each = static_cast<int32_t>(rng() % 72) - 2;
      for (Tensor to : {conv_eager.map().lengths.view(), conv_replayed.map().lengths.view(),
                        delta_eager.map().lengths.view(), delta_replayed.map().lengths.view()})
        copy_to_device(cuda_backend(), to, lengths.data());
      run(conv_eager, delta_eager);
      const auto eager = attention->wait_status(stream.get());
      graph.launch(stream.get());
      ASSERT_EQ(attention->wait_status(stream.get()), eager) << "replay " << replay;
      ASSERT_TRUE(same_bits(conv_replayed.pool(), conv_eager.pool())) << "replay " << replay;
      ASSERT_TRUE(same_bits(conv_replayed.output(), conv_eager.output())) << "replay " << replay;
      ASSERT_TRUE(same_bits(delta_replayed.pool(), delta_eager.pool())) << "replay " << replay;
      ASSERT_TRUE(same_bits(delta_replayed.output(), delta_eager.output())) << "replay " << replay;
    }
  }
}

}  // namespace
}  // namespace switchyard::testing
