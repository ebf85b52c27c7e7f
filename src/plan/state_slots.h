// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/state_slots.h -- which block of a cache a sequence's state stands in, and the one guard
// between lengths, ids and memory. Arithmetic that host and device share.
//
// An address is only formed from what passed the guard: a slot inside the table, then a block
// inside the pool. Offsets are 64-bit from the block on.
#pragma once

#include <cstdint>

#include "switchyard/linear_attention.h"

namespace switchyard {

// What a kernel needs to know of a StateMap and its pool.
struct StateTable {
  const int32_t* block_ids = nullptr;
  int64_t row_stride = 0, num_slots = 0;
  int64_t num_blocks = 0, first_block = 0;
  int32_t block_tokens = 1;
};

inline StateTable state_table(const StateMap& map, int64_t num_blocks) {
  return {.block_ids = map.block_map.as<int32_t>(),
          .row_stride = map.row_stride,
          .num_slots = map.num_slots,
          .num_blocks = num_blocks,
          .first_block = map.first_block,
          .block_tokens = static_cast<int32_t>(map.block_tokens)};
}

// Tokens of a step: x [B, D] is one token.
inline int step_tokens(const ConvDecode& step) {
  return step.x.shape.rank() == 2 ? 1 : static_cast<int>(step.x.dim(2));
}

// A state's place. Usable only where `faults` is 0.
struct StateBlock {
  int64_t block = 0;
  int32_t faults = 0;  // bits of StateFault
};

constexpr int32_t bit(StateFault fault) {
  return static_cast<int32_t>(fault);
}

constexpr bool has_slot(const StateTable& table, int64_t slot) {
  return slot >= 0 && slot < table.num_slots;
}
// 0 where there is no such slot: check_block looks at the slot first.
constexpr int32_t id_at(const StateTable& table, int64_t sequence, int64_t slot) {
  return has_slot(table, slot) ? table.block_ids[sequence * table.row_stride + slot] : 0;
}
constexpr StateBlock check_block(const StateTable& table, int64_t slot, int32_t id,
                                 StateFault bad_slot, StateFault bad_block) {
  if (!has_slot(table, slot)) return {0, bit(bad_slot)};
  if (id < table.first_block || id >= table.num_blocks) return {0, bit(bad_block)};
  return {id, 0};
}
constexpr StateBlock find_block(const StateTable& table, int64_t sequence, int64_t slot,
                                StateFault bad_slot, StateFault bad_block) {
  return check_block(table, slot, id_at(table, sequence, slot), bad_slot, bad_block);
}

// For length >= 2.
constexpr int64_t read_slot(int32_t length, int32_t block_tokens) {
  return (length - 2) / block_tokens;
}
// For length >= 1. 64 bits: the last token of a huge length would wrap.
constexpr int64_t write_slot(int32_t length, int32_t block_tokens, int token) {
  return int64_t{(length - 1) / block_tokens} + token;
}

// Limits that checks, the plain operations and kernels share: buffers are as large.
inline constexpr int kMaxStepTokens = 4;
inline constexpr int kMinConvWidth = 2, kMaxConvWidth = 6;
inline constexpr int kMaxKeyDim = 256;  // of a delta rule's state

inline constexpr int64_t kNoBlock = -1;

// Everything that a decode step of one sequence may do with the pool.
struct StepPlan {
  bool active = false;            // there is a sequence
  bool refused = false;           // its state cannot be read: output NaN, nothing is written
  int64_t read = kNoBlock;        // kNoBlock: begins at zero
  int64_t write[kMaxStepTokens];  // kNoBlock: that token's state is not written
  int32_t faults = 0;             // for the status word
};

// All ids are asked for before the first is looked at: one wait in place of two.
constexpr StepPlan plan_step(const StateTable& table, int64_t sequence, int32_t length,
                             int num_tokens) {
  StepPlan plan{};
  for (int64_t& block : plan.write) block = kNoBlock;
  plan.active = length >= 1;
  if (!plan.active) return plan;
  const bool reads = length >= 2;
  const int64_t from = reads ? read_slot(length, table.block_tokens) : 0,
                to = write_slot(length, table.block_tokens, 0);
  const int32_t read_id = reads ? id_at(table, sequence, from) : 0;
  int32_t write_ids[kMaxStepTokens] = {};
  for (int i = 0; i < kMaxStepTokens; ++i)
    if (i < num_tokens) write_ids[i] = id_at(table, sequence, to + i);

  if (reads) {
    const StateBlock at =
        check_block(table, from, read_id, StateFault::ReadSlot, StateFault::ReadBlock);
    plan.faults |= at.faults;
    plan.refused = at.faults != 0;
    if (!plan.refused) plan.read = at.block;
  }
  for (int i = 0; i < kMaxStepTokens; ++i) {
    if (i >= num_tokens) continue;
    const StateBlock at =
        check_block(table, to + i, write_ids[i], StateFault::WriteSlot, StateFault::WriteBlock);
    plan.faults |= at.faults;
    if (at.faults == 0 && !plan.refused) plan.write[i] = at.block;
  }
  return plan;
}

// ---- prefill: new tokens [prefix, prefix + num_new) of a sequence

// How many states the new tokens leave: one per block that they touch. num_new >= 1.
constexpr int64_t num_prefill_states(int64_t prefix, int64_t num_new, int64_t block_tokens) {
  return (prefix + num_new - 1) / block_tokens - prefix / block_tokens + 1;
}
// The token whose state is the i-th of them: the last new one of its block.
constexpr int64_t prefill_state_token(int64_t prefix, int64_t num_new, int64_t block_tokens,
                                      int64_t i) {
  const int64_t last_of_block = (prefix / block_tokens + i + 1) * block_tokens - 1;
  const int64_t last = prefix + num_new - 1;
  return last_of_block < last ? last_of_block : last;
}
// Whether the state after `token`, `depth` values that end with it, begins before the first new
// token.
constexpr bool reaches_prefix(int64_t token, int64_t prefix, int64_t depth) {
  return token - prefix < depth - 1;
}

}  // namespace switchyard
