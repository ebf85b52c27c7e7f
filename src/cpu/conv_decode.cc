// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/conv_decode.cc -- what a step of the causal convolution means. Sums are fp32, in the
// order of j after the bias, as everywhere.
#include "cpu/run.h"

#include <cmath>
#include <limits>

#include "cpu/numbers.h"
#include "plan/state_slots.h"

namespace switchyard::cpu {
namespace {

struct Step {
  ConvDecode args;
  StateTable table;
  int num_tokens;
  int64_t dim, width;

  int64_t output_at(int64_t sequence, int64_t channel) const {
    return (sequence * dim + channel) * num_tokens;
  }
  int64_t state_at(int64_t block, int64_t channel) const {
    return block * args.state.stride(0) + channel * (width - 1);
  }

  void fill(int64_t sequence, float value) const {
    for (int64_t i = 0; i < dim * num_tokens; ++i)
      store_number(args.output, output_at(sequence, 0) + i, value);
  }

  float activated(float a) const {
    return args.activation == ConvActivation::Silu ? a / (1.0f + std::exp(-a)) : a;
  }

  void run_channel(int64_t sequence, int64_t channel, const StepPlan& plan) const {
    float u[kMaxConvWidth - 1 + kMaxStepTokens];
    for (int64_t j = 0; j < width - 1; ++j)
      u[j] =
          plan.read == kNoBlock ? 0.0f : load_number(args.state, state_at(plan.read, channel) + j);
    for (int t = 0; t < num_tokens; ++t)
      u[width - 1 + t] =
          rounded_to(args.state.dtype, load_number(args.x, output_at(sequence, channel) + t));

    for (int t = 0; t < num_tokens; ++t) {
      float sum = args.bias.present() ? args.bias.as<float>()[channel] : 0.0f;
      for (int64_t j = 0; j < width; ++j)
        sum += args.weight.as<float>()[channel * width + j] * u[t + j];
      store_number(args.output, output_at(sequence, channel) + t, activated(sum));
    }
    for (int i = 0; i < num_tokens; ++i)
      for (int64_t j = 0; j < width - 1 && plan.write[i] != kNoBlock; ++j)
        store_number(args.state, state_at(plan.write[i], channel) + j, u[i + 1 + j]);
  }

  void run_sequence(int64_t sequence, int32_t* status) const {
    const int32_t length = args.map.sequence_lengths.as<int32_t>()[sequence];
    const StepPlan plan = plan_step(table, sequence, length, num_tokens);
    if (plan.faults != 0) status[sequence] |= plan.faults;
    if (!plan.active) return fill(sequence, 0.0f);
    if (plan.refused) return fill(sequence, std::numeric_limits<float>::quiet_NaN());
    for (int64_t c = 0; c < dim; ++c) run_channel(sequence, c, plan);
  }
};

}  // namespace

template <>
void run(const ConvDecodeStep& op, const Context& context) {
  const Step step{op.step, state_table(op.step.map, op.step.state.dim(0)), step_tokens(op.step),
                  op.step.weight.dim(0), op.step.weight.dim(1)};
  context.pool.parallel_for(op.step.x.dim(0),
                            [&](int64_t b) { step.run_sequence(b, op.status.as<int32_t>()); });
}

}  // namespace switchyard::cpu
