// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/deliver_rows.cc
#include <algorithm>
#include <cstring>

#include "cpu/peer_window.h"
#include "cpu/rows.h"

namespace switchyard::cpu {
namespace {

// To rank p, which is not active, nothing goes, and nothing comes from there: its block here has no
// experts.
int32_t push_nothing(const DeliverRows& op, int p) {
  const int64_t num_ranks = op.window.num_ranks, top_k = op.ids.dim(1);
  std::fill_n(op.dst_ids.as<int32_t>() + p * op.block * top_k, op.block * top_k, kNoExpert);
  for (int64_t t = 0; op.return_row.present() && t < op.ids.dim(0); ++t)
    op.return_row.as<int32_t>()[t * num_ranks + p] = kNoRow;
  return 0;
}

// The tokens of this rank that have an expert on rank p go there; how many do.
int32_t push_to(const DeliverRows& op, int p) {
  if (!is_active(op.window, p)) return push_nothing(op, p);
  const int64_t num_ranks = op.window.num_ranks, top_k = op.ids.dim(1);
  const int64_t per_rank = experts_of_rank(op.num_experts, num_ranks);
  const int64_t first = op.window.rank * op.block;
  const PeerBases peers = op.window.memory();
  int32_t* ids = at_peer(peers, p, op.dst_ids.as<int32_t>()) + first * top_k;
  float* weights = at_peer(peers, p, op.dst_weights.as<float>()) + first * top_k;
  int32_t n = 0;
  for (int64_t t = 0; t < op.ids.dim(0); ++t) {
    const int32_t* id = op.ids.as<int32_t>() + t * top_k;
    const auto local = [&](int32_t e) {
      const int64_t i = e - p * per_rank;
      return is_expert(e, op.num_experts) && is_expert(i, per_rank) ? static_cast<int32_t>(i)
                                                                    : kNoExpert;
    };
    const bool owns = std::any_of(id, id + top_k, [&](int32_t e) { return local(e) != kNoExpert; });
    if (op.return_row.present())
      op.return_row.as<int32_t>()[t * num_ranks + p] =
          owns ? static_cast<int32_t>(p * op.block + n) : kNoRow;
    if (!owns) continue;
    std::transform(id, id + top_k, ids + n * top_k, local);
    std::copy_n(op.weights.as<float>() + t * top_k, top_k, weights + n * top_k);
    for (size_t i = 0; i < op.rows.size(); ++i) {
      const ConstTensor row = op.rows[i].rows(t, 1);
      const Tensor here = op.dst_rows[i].rows(first + n, 1);
      std::memcpy(at_peer(peers, p, here.as<std::byte>()), row.as<std::byte>(),
                  static_cast<size_t>(row.bytes()));
    }
    if (op.dst_tokens.present())
      at_peer(peers, p, op.dst_tokens.as<int32_t>())[first + n] = static_cast<int32_t>(t);
    ++n;
  }
  std::fill(ids + n * top_k, ids + op.block * top_k, kNoExpert);
  return n;
}

void push(const DeliverRows& op) {
  auto& bad = op.window.control.as<uint64_t>()[kControlBadId];
  const int64_t per_rank = experts_of_rank(op.num_experts, op.window.num_ranks);
  for (int64_t s = 0; s < op.ids.count(); ++s) {
    const int32_t id = op.ids.as<int32_t>()[s];
    if (!is_valid_id(id, op.num_experts)) bad = std::max(bad, bad_id_word(s, id));
    const bool names_expert = is_expert(id, op.num_experts);
    const bool goes = names_expert && is_active(op.window, static_cast<int>(id / per_rank));
    if (names_expert && !goes) ++op.dropped.as<int64_t>()[0];
    if (op.return_slot.present())
      op.return_slot.as<int32_t>()[s] = goes ? static_cast<int32_t>(s) : kNoRow;
  }
  for (int p = 0; p < op.window.num_ranks; ++p) op.sent.as<int32_t>()[p] = push_to(op, p);
}

void expect_nothing(const DeliverRows& op) {
  for (const Tensor& place : {op.return_row, op.return_slot})
    if (place.present()) std::fill_n(place.as<int32_t>(), place.count(), kNoRow);
}

void check_active(const DeliverRows& op) {
  const Tensor& headers = op.window.headers;
  for (int r = 0; r < op.window.num_ranks; ++r)
    if (const int32_t active = headers.as<int32_t>()[r * headers.dim(1) + kHeaderActive];
        active != active_word(op.window))
      note(words_of(op.status), Errc::ShapeMismatch, StatusDetail::ActiveRanksDiffer, r, active);
}

}  // namespace

template <>
void run(const DeliverRows& op, const Context& context) {
  const PeerWindow& w = op.window;
  const uint32_t epoch = epoch_of(w) + 1;
  if (op.part != PeerMeet::Wait) {
    auto* sent = op.sent.as<int32_t>();
    std::fill_n(sent, w.num_ranks, 0);
    note_missing(w, PeerPhase::CountedRows, op.status);
    words_of(op.status).good() ? push(op) : expect_nothing(op);
    note_bad_id(w, op.status);
    const auto word = [&](int64_t i, int to) -> int64_t {
      return i == kHeaderMaxTokens   ? op.max_tokens
             : i == kHeaderPlacement ? placement_word(op.placement)
             : i == kHeaderTokens    ? op.num_tokens
             : i == kHeaderRows      ? sent[to]
             : i == kHeaderActive    ? active_word(w)
                                     : op.status.as<int32_t>()[i];
    };
    send_header(w, PeerPhase::CountedRows, epoch, 0, w.num_ranks, word);
  }
  if (op.part == PeerMeet::Signal) return;
  const bool all_came = await(w, PeerPhase::CountedRows, epoch, 0, w.num_ranks, op.status);
  w.control.as<int64_t>()[kControlEpoch] = epoch;
  if (all_came) {
    run(CheckHeaders{op.status, w.headers, op.tp_size}, context);
    note_missing(w, PeerPhase::CountedRows, op.status);
    check_active(op);
  }
  int32_t& num_rows = op.num_rows.as<int32_t>()[0] = 0;
  const bool good = words_of(op.status).good();
  for (int s = 0; s < w.num_ranks; ++s) {
    int32_t& count = op.counts.as<int32_t>()[s];
    count = good ? w.headers.as<int32_t>()[s * w.headers.dim(1) + kHeaderRows] : 0;
    if (count > 0) num_rows = static_cast<int32_t>(s * op.block + count);
  }
}

}  // namespace switchyard::cpu
