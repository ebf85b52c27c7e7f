// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/dispatcher.h -- public: token rows to the ranks that own their experts, and
// back.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "switchyard/backend.h"
#include "switchyard/communicator.h"
#include "switchyard/config.h"
#include "switchyard/strategy.h"

namespace [[gnu::visibility("default")]] switchyard {

struct RowRange {
  int64_t begin = 0;
  int64_t size = 0;
};

/// Memory that is cut alike on every rank, and that every rank can reach: what is at an offset from
/// `here` is at the same offset from the base of each other rank.
struct PeerBases {
  ConstTensor bases;           // i64 [P] on the device: addresses, seen from here; absent: no peers
  const void* here = nullptr;  // bases[rank]
  int rank = 0;

  bool present() const { return bases.present(); }
};

/// Where rows are: here, or in memory of all ranks.
struct RowSource {
  ConstTensor rows;   // bf16 [*, H] here, or f8_e4m3 with scales
  PeerBases peers{};  // present: row r is row r % block of `rows` of rank r / block
  int64_t block = 0;
  ConstTensor scales{};  // f32 [*, ceil(H / kQuantGroup)] of rows in f8_e4m3; absent: they are bf16
};

/// Rows that are sums: row r is the sum over k ascending, in fp32, of weights[r, k] times row
/// row_of_slot[r, k] of `rows`. A slot without a row (-1) adds nothing, whatever both hold.
struct SlotSums {
  ConstTensor rows;         // bf16 or f32 [*, H]; absent: no sums
  ConstTensor row_of_slot;  // i32 [R, K]
  ConstTensor weights;      // f32 [R, K]; absent: 1
};

/// What a rank holds after dispatch. R = num_rows[0] <= capacity; rows past R are not written.
struct ReceivedRows {
  RowSource source;      // [capacity, H], one per (token, this rank), by source rank, then token
  ConstTensor ids;       // i32  [capacity, K], LOCAL experts; -1 where another rank owns the slot
  ConstTensor weights;   // f32  [capacity, K]
  ConstTensor num_rows;  // i32  [1], on the device: the host does not wait for it. Absent: all rows
  /// Among the R rows may be gaps, of which all ids are -1: they hold anything, and their partial
  /// rows are not read.
  bool has_gaps = false;
  /// ids are the caller's, and nobody has looked at them: the executor notes one out of range.
  bool ids_are_given = false;
};

/// One call from dispatch to combine. It belongs to the caller, so several calls may be in flight
/// as long as each has its own workspace.
struct DispatchedCall {
  ReceivedRows received;   // views of the workspace, or of dispatch's arguments
  int64_t num_tokens = 0;  // T of this rank
  int64_t max_tokens = 0;  // the collective bound of this call
  Workspace workspace;     // as given to dispatch
  ConstTensor weights{};   // as given to dispatch
  ConstTensor ids{};       // the same; absent where nobody asks for them again
};

/// What travels back: partial rows, each the sum of a received row's local experts.
struct PartialRows {
  Tensor rows;      // bf16 [max_rows, H]; absent: combine sums `sums` itself
  SlotSums sums{};  // what they are sums of; absent: only rows are known
};

/// Rows in fp32 that join a sum before its rounding: out += scale[t] * rows[t, :].
struct Addend {
  ConstTensor rows;   // f32 [T, H]; absent: nothing is added
  ConstTensor scale;  // f32 [T]; absent: 1
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;

  virtual DispatcherKind kind() const = 0;

  /// Most rows that a rank can receive when every rank has at most `max_tokens` tokens.
  virtual int64_t max_rows(int64_t max_tokens) const = 0;
  virtual size_t workspace_bytes(int64_t max_tokens) const = 0;

  /// The tokens of `num_tokens` that this rank dispatches itself: all, or its slice over the
  /// tensor-parallel ranks (chunk = ceil(T / tp), fewer or none at the end).
  using Slice = RowRange;
  virtual Slice slice(int64_t num_tokens) const = 0;

  /// Makes a workspace known to the peers: collective, once for each, before its first dispatch.
  /// Needed on CUDA with several ranks, nothing happens elsewhere.
  ///
  ///   workspace   in   workspace_bytes(max_tokens)
  ///   max_tokens  in   the most that calls with this workspace will have, equal on every rank
  ///   owner       in   keeps the memory until no peer can reach it any more; without one, the
  ///                    caller keeps it until every rank is done with its dispatcher
  ///
  /// Throws Error on every rank or on none: ShapeMismatch, Unsupported, Transport.
  virtual void connect(Workspace workspace, int64_t max_tokens,
                       const std::shared_ptr<void>& owner) {
    (void)workspace, (void)max_tokens, (void)owner;
  }

  /// bf16 [max_tokens, H] of a connected workspace: hidden states that stand in its first T rows
  /// are dispatched from there, others are copied there first. They belong to the caller from the
  /// end of a call's combine, in the order of its stream, until the next dispatch. Absent where no
  /// place is better than another.
  virtual Tensor input_rows(Workspace workspace) const {
    (void)workspace;
    return {};
  }

  /// Sends each token row once to every rank that owns one of its top-k experts.
  ///
  ///   workspace   in     workspace_bytes(max_tokens); the call's until combine has run
  ///   hidden      in     bf16 [T, H]; T may be 0 and may differ by rank. Replicated over TP ranks.
  ///                      May begin where input_rows does, else must not overlap it
  ///   ids         in     i32 [T_slice, K] global experts of the slice's tokens; -1: no expert
  ///   weights     in     f32 [T_slice, K]
  ///   max_tokens  in     bound of T on every rank, equal on every rank
  ///   status      inout  i32 [kStatusWords]; ids outside [-1, E) and what peers reported are noted
  ///                      here. A rank that enters with a status set sends no rows and tells its
  ///                      peers
  ///
  /// Collective. Moves at most T * min(K, P - 1) * H * 2 bytes of rows off this rank, and about half
  /// of that of rows in f8_e4m3 (DispatcherOptions::rows).
  /// Throws Error: ShapeMismatch before anything moves; Transport if a peer is lost.
  /// Source: DeepEP's normal mode returns rows in this form.
  virtual DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                                  ConstTensor weights, int64_t max_tokens, Tensor status,
                                  CUstream_st* stream) = 0;

  /// Partial rows of what the experts made, but for those that combine sums itself: all, where
  /// nothing travels, so that one rank rounds once; this rank's own, where links are busy meanwhile.
  ///
  ///   sums  in   of every received row
  ///   room  out  bf16 [max_rows, H]; may be absent where partial rows have a place of their own: on
  ///              one rank, and where ranks reach each other's memory
  ///
  /// Not collective. The stream may be another than that of dispatch and combine.
  virtual PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                                  CUstream_st* stream) = 0;

  /// dst[t, :] = bf16( sum over ranks, in rank order, of partial rows of t, in fp32 + addend ); with
  /// sums_at_source of the weighted rows of t's slots, in their order.
  ///
  ///   dst      out  bf16 [T, H], all T tokens (TP slices are gathered)
  ///   partial  in   as sum_experts gives them; or, but with sums_at_source, rows alone, one per
  ///                 received row
  ///   addend   in   over the tokens of the slice
  ///
  /// Collective. A token without any expert gives a zero row plus its addend.
  virtual void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
                       const Addend& addend, Tensor status, CUstream_st* stream) = 0;

  /// Whether combine makes dst NaN once status is set; else the caller does.
  virtual bool combine_poisons() const { return false; }

  /// Throws Error(Unsupported), on every rank that asks alike, where dispatch cannot be enqueued on
  /// this stream: host counts over NCCL, while a graph captures it. dispatch refuses it, too.
  virtual void check_stream(CUstream_st* stream) const { (void)stream; }
  /// Whether ranks of this process share a device on which their kernels wait for each other: the
  /// driver may put what two threads enqueue at once into one queue, one rank's wait before what it
  /// waits for. So one rank at a time enqueues a call.
  /// Source: docs/decisions/0049, bench/bench_waits_on_one_gpu.cc.
  virtual bool serializes_enqueue() const { return false; }
  /// The host is about to wait for `stream`. Over NCCL a peer that does not come to what is on it,
  /// replayed graphs included, then ends that wait after the deadline; elsewhere nothing happens.
  virtual void before_wait(CUstream_st* stream) { (void)stream; }
  /// i64 [1] of a connected workspace, on the device: the active ranks that were missing in the last
  /// call that ended with an error for it, a bit each; 0: none ever. Absent without
  /// DispatcherOptions::lost_rank_timeout.
  virtual ConstTensor missing_ranks(Workspace workspace) const {
    (void)workspace;
    return {};
  }
  /// Once a status says that a peer is lost and the communicator does not know why: what is known
  /// here, or empty. Over NCCL the ranks first meet on the host, up to the deadline once more.
  virtual std::string why_lost() { return {}; }
};

/// Words of a status: Errc, detail, rank that saw it, lower and upper half of the value seen. All
/// 0: good. The first one stays.
inline constexpr int64_t kStatusWords = 5;

struct DispatcherOptions {
  DispatcherKind kind = DispatcherKind::Normal;
  int tp_size = 1;  // consecutive ranks that hold the same tokens; divides P
  // Ranks reach into each other's memory; absent: several on CUDA do, where they can, and threads
  // of a CPU do not. On CUDA false gives NCCL, which ranks of several hosts take anyway.
  std::optional<bool> peer_memory{};
  // Of all but Local: what hidden states travel as. F8E4m3: they are quantised before they travel,
  // in groups of kQuantGroup, for experts that would do the same: the same bits. No input_rows then.
  DType rows = DType::Bf16;
  int num_link_blocks = 0;  // CUDA: most thread blocks that move rows between ranks; 0: chosen
  // Normal over peer memory: rows stay in their rank's memory until the executor's scatter fetches
  // them, so that links and memory work at the same time. See ReceivedRows::source.
  bool fetch_rows = false;
  // Two ranks, fetch_rows: from so many tokens of a rank on, combine can sum its own rows itself.
  // See sum_experts.
  int64_t own_sums_from = 256;
  // LowLatency: experts' rows come back, one for each slot of a token, and the token's rank sums them,
  // in the order of the slots, in fp32, rounding once: the bits of one rank. Else, as with Normal, one
  // partial row from each rank that owns experts of the token.
  bool sums_at_source = false;
  bool host_ordered =
      false;  // peer memory: the host meets its peers before a kernel waits for them
  // SlotTables::active, in memory of the device: ids of dispatch are weight slots by the table in
  // use. A call in which ranks have tables of other contents is an error on all; absent: none.
  ConstTensor placement{};
  // LowLatency over peer memory, without tensor-parallel groups: not 0, a rank that is later than this
  // is missing, and calls can go on without it. Then in memory of the device:
  std::chrono::milliseconds lost_rank_timeout{0};
  ConstTensor active_ranks{};  // i64 [1] ranks that calls have, a bit each; equal on each of them
  Tensor dropped_routes{};     // i64 [1] += slots of experts whose rank is not active
  // NCCL, normal: the host waits for counts, exactly the rows travel; dispatch cannot be captured.
  bool host_counts = false;
};

/// Collective on CUDA and when tp_size > 1 (splits the communicator). Throws Error(Unsupported) for
/// conditions that do not hold (tp_size divides P, ...), or for NCCL where it cannot be (this build has
/// none, two ranks share a GPU). Borrows `communicator`.
std::unique_ptr<Dispatcher> make_dispatcher(const MoeConfig& config,
                                            const DispatcherOptions& options,
                                            Communicator& communicator,
                                            std::shared_ptr<Backend> backend);

}  // namespace switchyard
