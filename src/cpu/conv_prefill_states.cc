// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/conv_prefill_states.cc -- the states that a convolution over whole prompts leaves behind.
#include "cpu/run.h"

#include "cpu/numbers.h"
#include "plan/state_slots.h"

namespace switchyard::cpu {
namespace {

struct Step {
  ConvPrefillStates args;
  StateTable table;
  int64_t dim, depth;  // depth = w - 1 values per channel
  int32_t* status;

  int64_t state_at(int64_t block) const { return block * args.state.stride(0); }

  // Value j of the state after `token`; `old` is the state before the first new token.
  float value(int64_t token, int64_t j, int64_t prefix, int64_t first_row, int64_t channel,
              const float* old) const {
    const int64_t at = token - (depth - 1) + j;  // the token that the value belongs to
    if (at < prefix) return old[depth + at - prefix];
    const float x = load_number(args.x, (first_row + at - prefix) * dim + channel);
    return rounded_to(args.state.dtype, x);
  }

  void run_channel(int64_t sequence, int64_t channel, int64_t prefix, int64_t first_row,
                   int64_t num_new, int64_t read) const {
    const int64_t s = table.block_tokens;
    float old[kMaxConvWidth - 1] = {};
    for (int64_t j = 0; j < depth && read != kNoBlock; ++j)
      old[j] = load_number(args.state, state_at(read) + channel * depth + j);
    for (int64_t i = 0; i < num_prefill_states(prefix, num_new, s); ++i) {
      const int64_t token = prefill_state_token(prefix, num_new, s, i);
      const StateBlock to =
          find_block(table, sequence, token / s, StateFault::WriteSlot, StateFault::WriteBlock);
      for (int64_t j = 0; j < depth && to.faults == 0; ++j)
        store_number(args.state, state_at(to.block) + channel * depth + j,
                     value(token, j, prefix, first_row, channel, old));
    }
  }

  void run_sequence(int64_t sequence) const {
    const int64_t prefix = args.prefix_lengths.as<int32_t>()[sequence];
    const int64_t begin = args.starts.as<int32_t>()[sequence];
    const int64_t end = args.starts.as<int32_t>()[sequence + 1];
    const int64_t s = table.block_tokens;
    if (prefix < 0 || begin == end) return;
    if (begin < 0 || end < begin || end > args.x.dim(0)) {
      status[sequence] |= bit(StateFault::PrefillRows);
      return;
    }
    for (int64_t i = 0; i < num_prefill_states(prefix, end - begin, s); ++i)
      status[sequence] |=
          find_block(table, sequence, prefix / s + i, StateFault::WriteSlot, StateFault::WriteBlock)
              .faults;
    int64_t read = kNoBlock;
    if (prefix > 0 &&
        reaches_prefix(prefill_state_token(prefix, end - begin, s, 0), prefix, depth)) {
      const StateBlock from = find_block(table, sequence, (prefix - 1) / s, StateFault::ReadSlot,
                                         StateFault::ReadBlock);
      status[sequence] |= from.faults;
      if (from.faults != 0) return;  // what follows would be a guess
      read = from.block;
    }
    for (int64_t c = 0; c < dim; ++c) run_channel(sequence, c, prefix, begin, end - begin, read);
  }
};

}  // namespace

template <>
void run(const ConvPrefillStatesStep& op, const Context& context) {
  const Step step{op.step, state_table(op.step.map, op.step.state.dim(0)), op.step.state.dim(1),
                  op.step.state.dim(2), op.status.as<int32_t>()};
  context.pool.parallel_for(op.step.prefix_lengths.dim(0),
                            [&](int64_t b) { step.run_sequence(b); });
}

}  // namespace switchyard::cpu
