// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/dispatch_ops.h -- from global ids to what travels, and what ranks tell each other.
//
// Ids outside [-1, E) count as no expert; the first is noted in status, with this `rank`.
#pragma once

#include "ops/op.h"
#include "switchyard/placement.h"

namespace switchyard {

inline constexpr int32_t kNoRow = -1;     // row_of_slot: the slot has no row here
inline constexpr int32_t kNoExpert = -1;  // ids, row_expert

// The caller's ids as the layer's: map[id], or id. One outside [-1, M) of the map, or [-1, E), is
// noted as it came, or taken to be no expert. Ids outside int32 become INT32_MIN, out of range, too.
// With slots they are counted, and become weight slots.
struct ResolveIds {
  static constexpr const char* kName = "resolve_ids";
  Tensor dst;       // i32 [T, K]
  ConstTensor src;  // i32 or i64 [T, K]
  ConstTensor map;  // i32 [M], M >= E; absent: ids are the layer's own
  int64_t num_experts = 0;
  bool ignores_out_of_range = false;
  int rank = 0;
  Tensor status;
  SlotTables slots{};
  ConstTensor weights{};  // f32 [T, K], with slots

  Work work(const ReadI32&) const { return {tensor_bytes(dst) + tensor_bytes(src)}; }
};

// The owner of an id is id / experts_of_rank. With a status already set nothing is sent.
struct PlanDispatch {
  static constexpr const char* kName = "plan_dispatch";
  Tensor send_rows;    // i32 [P * T_cap] tokens in order of (destination rank, token); S = sum of
                       // send_counts
  Tensor send_counts;  // i32 [P]
  Tensor return_row;   // i32 [T_cap, P] index of (token, rank) among the rows that come back, by
                       // rank then token, which is its index in send_rows; kNoRow: the rank owns
                       // none of its experts
  ConstTensor ids;     // i32 [T, K] global
  int64_t num_experts = 0;
  int num_ranks = 1;
  int rank = 0;
  Tensor status;

  Work work(const ReadI32&) const { return {tensor_bytes(ids) + 2 * tensor_bytes(return_row)}; }
};

// dst[r, k] = src[r, k] - first if that is in [0, num_local), else kNoExpert, for the first
// num_rows[0] rows.
struct LocalizeIds {
  static constexpr const char* kName = "localize_ids";
  Tensor dst;            // i32 [R, K]
  ConstTensor src;       // i32 [R, K]
  ConstTensor num_rows;  // i32 [1]; absent: all
  int64_t first = 0;
  int64_t num_local = 0;
  int64_t num_experts = 0;
  int rank = 0;
  Tensor status;

  Work work(const ReadI32& read) const {
    const int64_t rows = num_rows.present() ? read(num_rows).front() : src.dim(0);
    return {2 * row_bytes(dst, static_cast<double>(rows))};
  }
};

// status is that of the lowest rank with an error.
struct MergeStatus {
  static constexpr const char* kName = "merge_status";
  Tensor status;
  ConstTensor headers;  // i32 [P, W], the first kStatusWords words of each a status

  Work work(const ReadI32&) const { return {tensor_bytes(headers)}; }
};

// dst[t, p] = p * stride + t: rows that come back in equal blocks, one per rank.
struct BlockRows {
  static constexpr const char* kName = "block_rows";
  Tensor dst;  // i32 [T, P]
  int64_t stride = 0;

  Work work(const ReadI32&) const { return {tensor_bytes(dst)}; }
};

// MergeStatus, then notes a rank whose max_tokens or placement differs from rank 0's, or whose T
// differs from that of the first rank of its group of tp_size.
struct CheckHeaders {
  static constexpr const char* kName = "check_headers";
  Tensor status;
  ConstTensor headers;  // of a dispatch (base/peer_control.h)
  int tp_size = 1;

  Work work(const ReadI32&) const { return {tensor_bytes(headers)}; }
};

// counts[s, d] from the headers, counts_back its transpose, num_rows what rank `rank` receives. All
// 0 once status is set: it is the same on every rank by then, so no rank sends.
struct ReadCounts {
  static constexpr const char* kName = "read_counts";
  Tensor counts;       // i32 [P, P]
  Tensor counts_back;  // i32 [P, P]
  Tensor num_rows;     // i32 [1]
  ConstTensor headers;
  int rank = 0;
  ConstTensor status;

  Work work(const ReadI32&) const { return {tensor_bytes(headers) + 2 * tensor_bytes(counts)}; }
};

// Rows on their way between ranks that do not share memory; of any dtype, at least 4 bytes each.
// The i-th row for rank d, the n-th that `rank` sends, is src[send_rows[n], :], or src[n, :]
// where send_rows is absent; it becomes dst[d * block + i, :], or dst[n, :] with block 0. Other
// rows of dst stay.
struct PackRows {
  static constexpr const char* kName = "pack_rows";
  Tensor dst;
  ConstTensor src;
  ConstTensor send_rows;
  ConstTensor counts;  // i32 [P, P] as in Communicator::all_to_all_rows; counts[rank, d] <= block
                       // unless that is 0
  int rank = 0;
  int64_t block = 0;

  Work work(const ReadI32& read) const {
    double rows = 0;
    for (const int32_t count : read(counts.rows(rank, 1))) rows += count;
    return {2 * row_bytes(src, rows)};
  }
};

// The n-th row that `rank` gets, the i-th from rank s, is blocks[s * block + i, :], but its own
// ones are in `own`, where PackRows left all that it sends; it becomes dst[n, :].
struct UnpackRows {
  static constexpr const char* kName = "unpack_rows";
  Tensor dst;
  ConstTensor blocks;
  ConstTensor own;
  ConstTensor counts;  // i32 [P, P]
  int rank = 0;
  int64_t block = 0;

  Work work(const ReadI32& read) const {
    double rows = 0;
    const auto all = read(counts);
    const auto num_ranks = static_cast<size_t>(counts.dim(0));
    for (size_t s = 0; s < num_ranks; ++s) rows += all[s * num_ranks + static_cast<size_t>(rank)];
    return {2 * row_bytes(dst, rows)};
  }
};

// Once the host has set the word `ended`, which the device can read, status becomes Transport,
// PeerLost, rank `rank`, whatever it was: what came from peers may mean nothing.
struct NoteEnded {
  static constexpr const char* kName = "note_ended";
  Tensor status;
  const int32_t* ended = nullptr;
  int rank = 0;

  Work work(const ReadI32&) const { return {}; }
};

using DispatchOps = OpList<ResolveIds, PlanDispatch, LocalizeIds, MergeStatus, BlockRows,
                           CheckHeaders, ReadCounts, PackRows, UnpackRows, NoteEnded>;

}  // namespace switchyard
