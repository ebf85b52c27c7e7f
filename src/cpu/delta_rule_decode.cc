// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/delta_rule_decode.cc -- what a step of the gated delta rule means. The state and every
// product are fp32; sums over Dk are double, so the error a test sees is the other form's.
#include "cpu/run.h"

#include <cmath>
#include <limits>

#include "cpu/numbers.h"
#include "plan/state_slots.h"

namespace switchyard::cpu {
namespace {

struct Step {
  DeltaRuleDecode args;
  StateTable table;
  int num_tokens;
  int64_t num_key_heads, num_value_heads, key_dim, value_dim;
  float scale;
  int32_t* status;

  int64_t output_at(int64_t sequence, int64_t token, int64_t head) const {
    return ((sequence * num_tokens + token) * num_value_heads + head) * value_dim;
  }
  int64_t state_at(int64_t block, int64_t head) const {
    return block * args.state.stride(0) + head * value_dim * key_dim;
  }
  static int64_t at(const ConstStridedTensor& t, int64_t sequence, int64_t token, int64_t head) {
    return sequence * t.stride(0) + token * t.stride(1) + head * t.stride(2);
  }

  // Row of q or k of one token, normalised if asked for, times `by`.
  void load_row(float* row, const ConstStridedTensor& t, int64_t first, float by) const {
    double squares = 0;
    for (int64_t i = 0; i < key_dim; ++i) {
      row[i] = load_number(t, first + i);
      squares += double{row[i]} * double{row[i]};
    }
    const float norm =
        args.l2_normalize ? 1.0f / std::sqrt(static_cast<float>(squares) + 1e-6f) : 1.0f;
    for (int64_t i = 0; i < key_dim; ++i) row[i] = row[i] * norm * by;
  }

  float beta_at(int64_t sequence, int token, int64_t head, int64_t value) const {
    const int64_t at_head = (sequence * num_tokens + token) * num_value_heads + head;
    return args.beta.shape.rank() == 4 ? load_number(args.beta, at_head * value_dim + value)
                                       : load_number(args.beta, at_head);
  }

  // One value index of one head: a row of the state, which no other row needs.
  void run_value(int64_t sequence, int64_t head, int64_t value, const StepPlan& plan,
                 const float (*q)[kMaxKeyDim], const float (*k)[kMaxKeyDim]) const {
    float h[kMaxKeyDim] = {};
    auto* state = args.state.as<float>();
    for (int64_t i = 0; i < key_dim && plan.read != kNoBlock; ++i)
      h[i] = state[state_at(plan.read, head) + value * key_dim + i];

    for (int t = 0; t < num_tokens; ++t) {
      const int64_t at_head = (sequence * num_tokens + t) * num_value_heads + head;
      const float decay = std::exp(load_number(args.g, at_head));
      double dot = 0, out = 0;
      for (int64_t i = 0; i < key_dim; ++i) {
        h[i] *= decay;
        dot += double{h[i]} * double{k[t][i]};
      }
      const float v = load_number(args.v, at(args.v, sequence, t, head) + value);
      const float d = beta_at(sequence, t, head, value) * (v - static_cast<float>(dot));
      for (int64_t i = 0; i < key_dim; ++i) {
        h[i] += d * k[t][i];
        out += double{h[i]} * double{q[t][i]};
      }
      store_number(args.output, output_at(sequence, t, head) + value, static_cast<float>(out));
      for (int64_t i = 0; i < key_dim && plan.write[t] != kNoBlock; ++i)
        state[state_at(plan.write[t], head) + value * key_dim + i] = h[i];
    }
  }

  void fill(int64_t sequence, int64_t head, float value) const {
    for (int t = 0; t < num_tokens; ++t)
      for (int64_t i = 0; i < value_dim; ++i)
        store_number(args.output, output_at(sequence, t, head) + i, value);
  }

  void run_head(int64_t sequence, int64_t head) const {
    const int32_t length = args.map.sequence_lengths.as<int32_t>()[sequence];
    const StepPlan plan = plan_step(table, sequence, length, num_tokens);
    if (plan.faults != 0 && head == 0) status[sequence] |= plan.faults;
    if (!plan.active) return fill(sequence, head, 0.0f);
    if (plan.refused) return fill(sequence, head, std::numeric_limits<float>::quiet_NaN());

    float q[kMaxStepTokens][kMaxKeyDim], k[kMaxStepTokens][kMaxKeyDim];
    const int64_t key_head = head / (num_value_heads / num_key_heads);
    for (int t = 0; t < num_tokens; ++t) {
      load_row(q[t], args.q, at(args.q, sequence, t, key_head), scale);
      load_row(k[t], args.k, at(args.k, sequence, t, key_head), 1.0f);
    }
    for (int64_t v = 0; v < value_dim; ++v) run_value(sequence, head, v, plan, q, k);
  }
};

}  // namespace

template <>
void run(const DeltaRuleDecodeStep& op, const Context& context) {
  const int64_t key_dim = op.step.k.dim(3);
  const Step step{.args = op.step,
                  .table = state_table(op.step.map, op.step.state.dim(0)),
                  .num_tokens = static_cast<int>(op.step.v.dim(1)),
                  .num_key_heads = op.step.k.dim(2),
                  .num_value_heads = op.step.v.dim(2),
                  .key_dim = key_dim,
                  .value_dim = op.step.v.dim(3),
                  .scale = op.step.scale.value_or(1.0f / std::sqrt(static_cast<float>(key_dim))),
                  .status = op.status.as<int32_t>()};
  context.pool.parallel_for(op.step.v.dim(0) * step.num_value_heads, [&](int64_t i) {
    step.run_head(i / step.num_value_heads, i % step.num_value_heads);
  });
}

}  // namespace switchyard::cpu
