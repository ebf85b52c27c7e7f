// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/exchange.cc
#include "cpu/run.h"

#include <atomic>

#include "base/status.h"
#include "plan/buffers.h"

namespace switchyard::cpu {
namespace {

const StatusWords& status_in(const int32_t* header) {
  return *reinterpret_cast<const StatusWords*>(header);
}

}  // namespace

template <>
void run(const MergeStatus& op, const Context&) {
  auto& merged = *op.status.as<StatusWords>();
  const auto* header = op.headers.as<int32_t>();
  // Every rank must end with the same words, so what this rank saw itself counts only as its
  // header.
  merged = {};
  for (int64_t r = 0; r < op.headers.dim(0) && merged.good(); ++r)
    merged = status_in(header + r * op.headers.dim(1));
}

template <>
void run(const BlockRows& op, const Context&) {
  auto* row = op.dst.as<int32_t>();
  const int64_t num_ranks = op.dst.dim(1);
  for (int64_t t = 0; t < op.dst.dim(0); ++t)
    for (int64_t p = 0; p < num_ranks; ++p)
      row[t * num_ranks + p] = static_cast<int32_t>(p * op.stride + t);
}

template <>
void run(const CheckHeaders& op, const Context& context) {
  run(MergeStatus{op.status, op.headers}, context);
  auto& merged = *op.status.as<StatusWords>();
  const int64_t width = op.headers.dim(1);
  const auto* header = op.headers.as<int32_t>();
  for (int r = 0; r < op.headers.dim(0); ++r) {
    const int32_t* mine = header + r * width;
    const int32_t* group = header + int64_t{r / op.tp_size} * op.tp_size * width;
    if (mine[kHeaderMaxTokens] != header[kHeaderMaxTokens])
      note(merged, Errc::ShapeMismatch, StatusDetail::MaxTokensDiffer, r, mine[kHeaderMaxTokens]);
    if (!same_placement(mine[kHeaderPlacement], header[kHeaderPlacement]))
      note(merged, Errc::ShapeMismatch, StatusDetail::PlacementsDiffer, r, mine[kHeaderPlacement]);
    if (mine[kHeaderTokens] != group[kHeaderTokens])
      note(merged, Errc::ShapeMismatch, StatusDetail::SliceTokensDiffer, r, mine[kHeaderTokens]);
  }
}

template <>
void run(const ReadCounts& op, const Context&) {
  const int64_t num_ranks = op.counts.dim(0), width = op.headers.dim(1);
  const bool good = op.status.as<StatusWords>()->good();
  auto* to = op.counts.as<int32_t>();
  auto* back = op.counts_back.as<int32_t>();
  int32_t received = 0;
  for (int64_t s = 0; s < num_ranks; ++s) {
    const int32_t* sent = op.headers.as<int32_t>() + s * width + kHeaderCounts;
    for (int64_t d = 0; d < num_ranks; ++d)
      to[s * num_ranks + d] = back[d * num_ranks + s] = good ? sent[d] : 0;
    received += to[s * num_ranks + op.rank];
  }
  op.num_rows.as<int32_t>()[0] = received;
}

template <>
void run(const NoteEnded& op, const Context&) {
  if (std::atomic_ref(*const_cast<int32_t*>(op.ended)).load(std::memory_order_relaxed) == 0) return;
  auto& words = *op.status.as<StatusWords>();
  words = {};
  note(words, Errc::Transport, StatusDetail::PeerLost, op.rank, kGivenUpByHost);
}

}  // namespace switchyard::cpu
