// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/linear_attention_ops.h -- the steps of linear_attention.h, whose `stream` is not used
// here. The guard is plan/state_slots.h.
//
// status i32 [at least B]: bits of StateFault are added to the words of sequences at fault.
#pragma once

#include "ops/op.h"
#include "plan/state_slots.h"
#include "switchyard/linear_attention.h"

namespace switchyard {

inline double bytes_per_row(ConstTensor t) {
  return t.dim(0) == 0 ? 0 : tensor_bytes(t) / static_cast<double>(t.dim(0));
}

// Sequences of a step and the states that it moves, each of them once. Block ids are taken for
// valid.
struct StateTraffic {
  double sequences = 0, states = 0;

  StateTraffic(const std::vector<int32_t>& lengths, const StateMap& map, int num_tokens) {
    const auto block_tokens = static_cast<int32_t>(map.block_tokens);
    for (const int32_t length : lengths) {
      if (length < 1) continue;
      ++sequences;
      const bool reads = length >= 2;
      if (reads && read_slot(length, block_tokens) >= map.num_slots) continue;
      states += reads;
      for (int i = 0; i < num_tokens; ++i)
        states += write_slot(length, block_tokens, i) < map.num_slots;
    }
  }
};

struct ConvDecodeStep {
  static constexpr const char* kName = "conv_decode";
  ConvDecode step;
  Tensor status;

  Work work(const ReadI32& read) const {
    const StateTraffic traffic(read(step.map.sequence_lengths), step.map, step_tokens(step));
    return {traffic.sequences * 2 * bytes_per_row(step.x) +
            traffic.states * bytes_per_row(step.state) + tensor_bytes(step.weight) +
            tensor_bytes(step.bias)};
  }
};

struct ConvPrefillStatesStep {
  static constexpr const char* kName = "conv_prefill_states";
  ConvPrefillStates step;
  Tensor status;

  Work work(const ReadI32& read) const {
    const auto starts = read(step.starts), prefix = read(step.prefix_lengths);
    double states = 0;
    for (size_t b = 0; b < prefix.size(); ++b)
      if (prefix[b] >= 0 && starts[b + 1] > starts[b])
        states += static_cast<double>(num_prefill_states(
            prefix[b], int64_t{starts[b + 1]} - starts[b], step.map.block_tokens));
    return {2 * states * bytes_per_row(step.state)};
  }
};

struct DeltaRuleDecodeStep {
  static constexpr const char* kName = "delta_rule_decode";
  DeltaRuleDecode step;
  Tensor status;

  Work work(const ReadI32& read) const {
    const auto num_tokens = static_cast<int>(step.v.dim(1));
    const StateTraffic traffic(read(step.map.sequence_lengths), step.map, num_tokens);
    const double state_bytes = bytes_per_row(step.state);
    const double per_sequence = bytes_per_row(step.q) + bytes_per_row(step.k) +
                                bytes_per_row(step.v) + bytes_per_row(step.g) +
                                bytes_per_row(step.beta) + bytes_per_row(step.output);
    // decay, two dot products, one update of every element of the state
    const double flops = 7 * state_bytes / sizeof(float) * num_tokens;
    return {traffic.sequences * per_sequence + traffic.states * state_bytes,
            traffic.sequences * flops};
  }
};

using LinearAttentionOps = OpList<ConvDecodeStep, ConvPrefillStatesStep, DeltaRuleDecodeStep>;

}  // namespace switchyard
