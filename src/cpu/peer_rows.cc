// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/peer_rows.cc -- rows between the memories of ranks, by addresses of this process.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/status.h"
#include "cpu/rows.h"
#include "plan/index.h"

namespace switchyard::cpu {

template <>
void run(const PushRows& op, const Context&) {
  if (!op.status.as<StatusWords>()->good()) return;
  const int64_t num_ranks = op.window.num_ranks,
                per_rank = experts_of_rank(op.num_experts, num_ranks);
  const int64_t num_tokens = op.ids.dim(0), top_k = op.ids.dim(1);
  const bool moves = op.route != PeerRoute::Nobody;
  const int64_t first = moves ? op.window.rank * op.block : 0;
  const auto* id = op.ids.as<int32_t>();
  auto& bad = op.window.control.as<uint64_t>()[kControlBadId];
  for (int64_t s = 0; s < op.ids.count(); ++s)
    if (!is_valid_id(id[s], op.num_experts)) bad = std::max(bad, bad_id_word(s, id[s]));

  const auto copy = [](auto* dst, const auto* src, int64_t count) {
    std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(*dst));
  };
  for (int p = 0; p < num_ranks; ++p) {
    const auto local = [&](int32_t e) {
      const int64_t i = e - p * per_rank;
      return is_expert(i, per_rank) ? static_cast<int32_t>(i) : kNoExpert;
    };
    const auto owns = [&](int64_t t) {
      return std::any_of(id + t * top_k, id + (t + 1) * top_k,
                         [&](int32_t e) { return local(e) != kNoExpert; });
    };
    for (int64_t t = 0; t < num_tokens; ++t)
      op.return_row.as<int32_t>()[t * num_ranks + p] =
          owns(t) ? static_cast<int32_t>(first + t) : kNoRow;
    if (!moves && p != op.window.rank) continue;
    int32_t* ids = at_peer(op.window.memory(), p, op.dst_ids.as<int32_t>()) + first * top_k;
    std::transform(id, id + op.ids.count(), ids, local);
    std::fill(ids + op.ids.count(), ids + op.block * top_k, kNoExpert);
    if (!moves) continue;
    copy(at_peer(op.window.memory(), p, op.dst_weights.as<float>()) + first * top_k,
         op.weights.as<float>(), op.weights.count());
    for (size_t i = 0; i < op.rows.size(); ++i) {
      const ConstTensor& src = op.rows[i];
      const int64_t row_bytes = src.dim(1) * dtype_bytes(src.dtype);
      auto* dst = op.dst_rows[i].as<std::byte>();
      if (op.route == PeerRoute::Offered) {
        if (p == op.window.rank && !op.is_in_place()) copy(dst, src.as<std::byte>(), src.bytes());
        continue;
      }
      dst = at_peer(op.window.memory(), p, dst) + first * row_bytes;
      for (int64_t t = 0; t < num_tokens; ++t)
        if (op.route == PeerRoute::Everyone || owns(t))
          copy(dst + t * row_bytes, src.as<std::byte>() + t * row_bytes, row_bytes);
    }
  }
}

template <>
void run(const PullSlices& op, const Context&) {
  if (!op.status.as<StatusWords>()->good()) return;
  const int64_t chunk = ceil_div(op.dst.dim(0), op.num);
  const int64_t row_bytes = op.dst.dim(1) * dtype_bytes(op.dst.dtype);
  for (int64_t t = 0; t < op.dst.dim(0); ++t)
    std::memcpy(op.dst.as<std::byte>() + t * row_bytes,
                at_peer(op.window.memory(), op.first + static_cast<int>(t / chunk),
                        op.slice.as<std::byte>()) +
                    t % chunk * row_bytes,
                row_bytes);
}

}  // namespace switchyard::cpu
