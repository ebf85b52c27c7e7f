// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/sum_rows.cc -- what gather and combine mean.
#include "base/status.h"
#include "cpu/numbers.h"
#include "cpu/rows.h"
#include "cpu/run.h"

namespace switchyard::cpu {
namespace {

// Element h of row r, in fp32; with peers slot p is a row of rank p.
float sum_of(const SlotSums& sums, const PeerBases& peers, const SlotSums& own, int64_t r,
             int64_t h) {
  const int64_t num_terms = sums.row_of_slot.dim(1), hidden = sums.rows.dim(1);
  float sum = 0;
  for (int64_t i = 0; i < num_terms; ++i) {
    const int64_t slot = r * num_terms + i, row = sums.row_of_slot.as<int32_t>()[slot];
    if (row == kNoRow) continue;
    ConstTensor rows = sums.rows;
    if (peers.present()) rows.data = at_peer(peers, static_cast<int>(i), rows.as<std::byte>());
    const bool is_own = own.rows.present() && i == peers.rank;
    const float value = is_own ? static_cast<float>(Bf16(sum_of(own, {}, {}, r, h)))
                               : load_number(rows, row * hidden + h);
    sum += sums.weights.present() ? sums.weights.as<float>()[slot] * value : value;
  }
  return sum;
}

void poison_rows(const SumRows& op, const Context& context) {
  for (int64_t r = 0; r < num_rows_of(op); ++r)
    if (!stays(op, r)) run(Poison{op.dst.rows(r, 1), op.poison}, context);
}

}  // namespace

void sum_rows_plain(const SumRows& op) {
  if (op.status.present() && !op.status.as<StatusWords>()->good()) return;
  const int64_t hidden = op.dst.dim(1);
  for (int64_t r = 0; r < num_rows_of(op); ++r) {
    if (stays(op, r)) continue;
    for (int64_t h = 0; h < hidden; ++h) {
      float sum = sum_of(op.sums, op.peers, op.own, r, h);
      if (op.addend.rows.present()) {
        const float value = op.addend.rows.as<float>()[r * hidden + h];
        sum += op.addend.scale.present() ? op.addend.scale.as<float>()[r] * value : value;
      }
      store_number(op.dst, r * hidden + h, sum);
    }
  }
}

template <>
void run(const SumRows& op, const Context& context) {
  if (op.poison.present() && !op.poison.as<StatusWords>()->good()) return poison_rows(op, context);
  if (context.fast && !op.peers.present()) return sum_rows_fast(op, context.pool);
  sum_rows_plain(op);
}

}  // namespace switchyard::cpu
