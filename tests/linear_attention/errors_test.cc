// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/linear_attention/errors_test.cc -- arguments that break a rule are refused before anything
// runs, on one line that names value, rule and remedy.
#include <gtest/gtest.h>

#include <functional>

#include "testing/linear_attention.h"

namespace switchyard::testing {
namespace {

class LinearAttentionErrors : public ::testing::Test {
 protected:
  LinearAttentionErrors() : attention_(LinearAttention::create(make_cpu_backend(1), 4)) {
    ConvProblem conv;
    conv.paged.lengths = {20, 20};
    conv_ = std::make_unique<ConvStep<Bf16, Bf16, Buffer>>(conv);
    DeltaProblem delta;
    delta.paged.lengths = {20, 20};
    delta.value_dim = 16;
    delta_ = std::make_unique<DeltaStep<Bf16, Buffer>>(delta);
  }

  template <class Run>
  static void refused(const Run& run, Errc code, const std::string& says) {
    try {
      run();
      ADD_FAILURE() << "accepted: " << says;
    } catch (const switchyard::Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
    }
  }
  void conv(Errc code, const std::string& says, const std::function<void(ConvDecode&)>& change) {
    ConvDecode step = conv_->args();
    change(step);
    refused([&] { attention_->conv_decode(step); }, code, says);
  }
  void delta(Errc code, const std::string& says,
             const std::function<void(DeltaRuleDecode&)>& change) {
    DeltaRuleDecode step = delta_->args();
    change(step);
    refused([&] { attention_->delta_rule_decode(step); }, code, says);
  }

  std::unique_ptr<LinearAttention> attention_;
  std::unique_ptr<ConvStep<Bf16, Bf16, Buffer>> conv_;  // 12 blocks
  std::unique_ptr<DeltaStep<Bf16, Buffer>> delta_;
};

TEST_F(LinearAttentionErrors, OfTheBlockMap) {
  conv(Errc::ShapeMismatch, "row_stride=3, need at least num_slots=4",
       [](auto& s) { s.map.row_stride = 3; });
  conv(Errc::ShapeMismatch, "num_slots=0", [](auto& s) { s.map.num_slots = 0; });
  conv(Errc::ShapeMismatch, "block_tokens=0", [](auto& s) { s.map.block_tokens = 0; });
  conv(Errc::ShapeMismatch, "block_tokens=2147483648",
       [](auto& s) { s.map.block_tokens = int64_t{1} << 31; });
  conv(Errc::ShapeMismatch, "first_block=2", [](auto& s) { s.map.first_block = 2; });
  conv(Errc::ShapeMismatch, "block_map=[2, 4], need [2, 5]",
       [](auto& s) { s.map.num_slots = s.map.row_stride = 5; });
  conv(Errc::ShapeMismatch, "does not fit 63 bits",
       [](auto& s) { s.map.row_stride = INT64_MAX / 2; });
  conv(Errc::ShapeMismatch, "sequence_lengths=[3]",
       [](auto& s) { s.map.sequence_lengths.shape = {3}; });
  conv(Errc::ShapeMismatch, "block_map dtype=i64",
       [](auto& s) { s.map.block_map.dtype = DType::I64; });
  conv(Errc::ShapeMismatch, "block_map is on cuda",
       [](auto& s) { s.map.block_map.device = DeviceKind::Cuda; });
  delta(Errc::ShapeMismatch, "delta_rule_decode: row_stride=3",
        [](auto& s) { s.map.row_stride = 3; });
}

TEST_F(LinearAttentionErrors, OfTheConvolution) {
  const auto state_of = [](const Shape& shape) {
    return [shape](ConvDecode& s) {
      Tensor state = s.state;
      state.shape = shape;
      s.state = state;
    };
  };
  conv(Errc::Unsupported, "tokens=5", [](auto& s) { s.x.shape = {2, 64, 5}; });
  conv(Errc::ShapeMismatch, "output=[2, 64, 1], need [2, 64, 3]", [](auto& s) {
    s.x.shape = {2, 64, 3};
  });
  conv(Errc::ShapeMismatch, "batch=8, need at most 4", [](auto& s) { s.x.shape = {8, 16}; });
  conv(Errc::Unsupported, "width=7", state_of({4, 64, 6}));
  conv(Errc::Unsupported, "width=1", state_of({4, 64, 0}));
  conv(Errc::ShapeMismatch, "weight=[64, 4], need [64, 3]", state_of({9, 64, 2}));
  conv(Errc::ShapeMismatch, "state=[12, 32, 3], need [12, 64, 3]", state_of({12, 32, 3}));
  conv(Errc::ShapeMismatch, "state strides=1, 64", [](auto& s) {
    s.state.strides = {192, 1, 64, 0};
  });
  conv(Errc::ShapeMismatch, "state stride=184", [](auto& s) { s.state.strides[0] = 184; });
  conv(Errc::Misaligned, "state stride=196", [](auto& s) { s.state.strides[0] = 196; });
  conv(Errc::Misaligned, "D=60", [](auto& s) { s.x.shape = s.output.shape = {2, 60}; });
  conv(Errc::Misaligned, "x address=", [](auto& s) { s.x.data = s.x.template as<Bf16>() + 1; });
  conv(Errc::ShapeMismatch, "x dtype=i32", [](auto& s) { s.x.dtype = DType::I32; });
  conv(Errc::ShapeMismatch, "weight dtype=bf16", [](auto& s) { s.weight.dtype = DType::Bf16; });
  conv(Errc::ShapeMismatch, "bias=[32]", [](auto& s) { s.bias.shape = {32}; });
  conv(Errc::Unsupported, "activation=9",
       [](auto& s) { s.activation = static_cast<ConvActivation>(9); });
  conv(Errc::ShapeMismatch, "output=null", [](auto& s) { s.output.data = nullptr; });
}

TEST_F(LinearAttentionErrors, OfTheDeltaRule) {
  delta(Errc::ShapeMismatch, "is key-first; need value-first [num_blocks, 4, 16, 32]", [](auto& s) {
    s.state.shape = {12, 4, 32, 16};
  });
  delta(Errc::ShapeMismatch, "with strides 1, 16, is key-first", [](auto& s) {
    s.state.strides = {2048, 512, 1, 16};
  });
  delta(Errc::ShapeMismatch, "state strides=600, 32, 1", [](auto& s) {
    s.state.strides = {2400, 600, 32, 1};
  });
  delta(Errc::ShapeMismatch, "state dtype=bf16", [](auto& s) { s.state.dtype = DType::Bf16; });
  delta(Errc::ShapeMismatch, "Hv=3, need a multiple of Hk=2", [](auto& s) {
    s.v.shape = {2, 1, 3, 16};
  });
  delta(Errc::Unsupported, "Dk=30", [](auto& s) { s.q.shape = s.k.shape = {2, 1, 2, 30}; });
  delta(Errc::Unsupported, "Dk=260", [](auto& s) { s.q.shape = s.k.shape = {2, 1, 2, 260}; });
  delta(Errc::Unsupported, "tokens=5", [](auto& s) { s.v.shape = {2, 5, 4, 16}; });
  delta(Errc::ShapeMismatch, "k=[2, 1, 2, 32], need [2, 2, 2, 32]", [](auto& s) {
    s.v.shape = {2, 2, 4, 16};
  });
  delta(Errc::ShapeMismatch, "q stride of the last dimension=2",
        [](auto& s) { s.q.strides[3] = 2; });
  delta(Errc::ShapeMismatch, "v stride=-1", [](auto& s) { s.v.strides[0] = -1; });
  delta(Errc::ShapeMismatch, "q dtype=f32, need bf16", [](auto& s) { s.q.dtype = DType::F32; });
  delta(Errc::ShapeMismatch, "beta=[2, 1, 4, 3]", [](auto& s) { s.beta.shape = {2, 1, 4, 3}; });
  delta(Errc::ShapeMismatch, "g=[2, 4]", [](auto& s) { s.g.shape = {2, 4}; });
  delta(Errc::ShapeMismatch, "does not fit 63 bits", [](auto& s) {
    s.state.shape = {int64_t{1} << 52, 4, 16, 32};
  });
  delta(Errc::ShapeMismatch, "does not fit 63 bits",
        [](auto& s) { s.k.strides[0] = int64_t{1} << 61; });
}

// Where Dk = Dv hides a key-first state, its strides tell.
TEST_F(LinearAttentionErrors, AKeyFirstStateOfEqualWidthsIsSeenByItsStrides) {
  DeltaProblem p;
  p.paged.lengths = {20};
  DeltaStep<Bf16, Buffer> problem(p);
  DeltaRuleDecode step = problem.args();
  EXPECT_NO_THROW(attention_->delta_rule_decode(step));
  step.state.strides = {4 * 32 * 32, 32 * 32, 1, 32};
  refused([&] { attention_->delta_rule_decode(step); }, Errc::ShapeMismatch, "is key-first");
}

TEST_F(LinearAttentionErrors, OfPrefill) {
  Buffer<Bf16> x({6, 8}), pool({3, 8, 3});
  Buffer<int32_t> starts({2}), prefix({1}), table({1, 2});
  const auto prefill = [&](Errc code, const std::string& says,
                           const std::function<void(ConvPrefillStates&)>& change) {
    ConvPrefillStates step;
    step.state = pool.view(), step.x = x.view(), step.starts = starts.view();
    step.prefix_lengths = prefix.view();
    step.map = {.block_map = table.view(), .num_slots = 2, .row_stride = 2, .block_tokens = 4};
    change(step);
    refused([&] { attention_->conv_prefill_states(step); }, code, says);
  };
  prefill(Errc::ShapeMismatch, "starts=[1], need [2]", [](auto& s) { s.starts.shape = {1}; });
  prefill(Errc::ShapeMismatch, "x=[6, 8, 1], need [T, D]", [](auto& s) { s.x.shape = {6, 8, 1}; });
  prefill(Errc::ShapeMismatch, "state=[3, 8, 3], need [3, 16, 3]", [](auto& s) {
    s.x.shape = {3, 16};
  });
  prefill(Errc::ShapeMismatch, "row_stride=1", [](auto& s) { s.map.row_stride = 1; });
  prefill(Errc::ShapeMismatch, "batch=5, need at most 4",
          [](auto& s) { s.prefix_lengths.shape = {5}, s.starts.shape = {6}; });
}

TEST(LinearAttentionCreate, RefusesNoBackendAndNegativeBatches) {
  EXPECT_THROW(LinearAttention::create(nullptr, 1), switchyard::Error);
  EXPECT_THROW(LinearAttention::create(make_cpu_backend(1), -1), switchyard::Error);
  EXPECT_TRUE(LinearAttention::create(make_cpu_backend(1), 0)->wait_status().empty());
}

TEST(LinearAttentionCreate, AnEmptyBatchIsNormal) {
  const auto attention = LinearAttention::create(make_cpu_backend(1), 0);
  expect_conv<Bf16, Bf16, Buffer>(*attention, ConvProblem{});
  expect_delta<Bf16, Buffer>(*attention, DeltaProblem{});
}

TEST(ConvActivationNames, AreThoseOfTheReference) {
  for (const char* name : {"silu", "swish", "true"})
    EXPECT_EQ(conv_activation_from(name), ConvActivation::Silu);
  for (const char* name : {"", "none"}) EXPECT_EQ(conv_activation_from(name), ConvActivation::None);
  EXPECT_THROW(conv_activation_from("gelu"), switchyard::Error);
}

}  // namespace
}  // namespace switchyard::testing
