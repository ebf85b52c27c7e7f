// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/layer.h -- public: the MoE layer. Start here.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "switchyard/backend.h"
#include "switchyard/communicator.h"
#include "switchyard/config.h"
#include "switchyard/error.h"
#include "switchyard/gate.h"
#include "switchyard/strategy.h"
#include "switchyard/tensor.h"
#include "switchyard/weights.h"

namespace [[gnu::visibility("default")]] switchyard {

/// What given ids are that name no expert of the layer and are not -1.
enum class OutOfRangeIds {
  Error,     // `wait` throws BadRouting, the output is NaN
  NoExpert,  // as -1: engines pad with E or E_local
};

/// Choices for one layer. All but `backend` and where the workspace comes from must be equal on
/// every rank.
struct LayerOptions : PlanOptions {
  DeviceKind device = DeviceKind::Cpu;
  int num_threads = 0;  // CPU: threads of this rank; 0: cores / ranks, at least one
  /// Of ForwardArgs::ids. NoExpert costs a kernel more, as ids of i64 and an expert_map do.
  OutOfRangeIds out_of_range_ids = OutOfRangeIds::Error;
  /// CUDA, several ranks: most thread blocks that move rows between ranks; 0: chosen. Changes no
  /// bit.
  int num_link_blocks = 0;
  /// CUDA, peer memory: the host waits for its stream and meets its peers before a kernel waits
  /// for them. For tools that run one kernel at a time; slow, and forward cannot be captured.
  bool host_ordered = false;
  /// Of `device`, shared with other layers of this thread, as those of a model should be; empty:
  /// made here. Layers over cuBLAS that share one run on one stream: its scratch memory is the
  /// backend's.
  std::shared_ptr<Backend> backend;
  /// Where the workspace comes from, MoeLayer::workspace_bytes of it: what a call needs, and
  /// nothing after it. So layers may share one if their calls follow each other: on one stream, or
  /// on a CPU one after the other. At most one of these three; none: allocated here.
  Workspace workspace;                                // lent for the layer's life
  std::shared_ptr<SharedWorkspace> shared_workspace;  // taken from there, kept for the layer's life
  bool workspace_per_call = false;                    // one rank: ForwardArgs::workspace
  /// Rows of hidden and output may have gaps (ForwardArgs::hidden_stride, output_stride). Costs
  /// workspace for max_tokens rows of each, and such a call copies them.
  bool strided_rows = false;
  /// Equal on every rank: the expert in each of S weight slots, numbered over all ranks, as a row of
  /// Placement::physical_to_logical. Rank p has slots [p S / P, (p + 1) S / P), and its ExpertWeights
  /// are theirs, in this order (ExpertWeights::num_slots). S is a multiple of P, at most kMaxExperts.
  /// Every expert has a slot; -1: the slot has none, for now. Empty: experts stand in their order,
  /// experts_of_rank on each rank. See MoeLayer::set_placement, docs/guide/placement.md. Costs a
  /// kernel more where ids are given as i32 without an expert_map.
  std::vector<int32_t> placement;
  /// Whether there are MoeLayer::expert_loads; ranks may differ. Costs what `placement` does.
  bool count_loads = false;
  /// For debugging: forward first fills the workspace with NaN, so that whatever is taken from an
  /// earlier call shows. Costs a pass over it.
  bool poison_workspace = false;

  bool operator==(const LayerOptions&) const = default;
};

/// What one call did, known on the host before any work has run.
struct ForwardReport {
  Layout layout = Layout::Contiguous;
  int64_t max_rows = 0;            // bound of the rows this rank may receive: decides the layout
  int64_t masked_max_tokens = -1;  // the threshold it was compared with; -1 unless hybrid
};
/// "contiguous: at most 2048 rows, above the threshold of 256".
std::string describe(const ForwardReport& report);

/// Arguments of one forward. Views; they stay alive and unchanged until the work is done (`wait`).
struct ForwardArgs {
  Tensor output{};  // out  bf16, or with f32_sums f32 [T, H]; overlaps no input
  /// in   bf16 [T, H]; T may be 0 and may differ by rank. See MoeLayer::input_rows
  ConstTensor hidden{};
  /// in   i32 or i64 [T, K] global experts, zero experts from E on, -1 "no expert"; absent: the
  /// gate runs. A layer whose gate weighs shared experts needs its gate
  ConstTensor ids{};
  ConstTensor weights{};  // in   f32 [T, K]; present exactly if ids is
  /// in   i32 [M], M >= E and zero experts: the layer's id, or -1, of each of the M ids that the
  /// caller's ids choose from; so an engine that holds E of M experts passes its ids as they are
  ConstTensor expert_map{};
  /// in   i32 or i64 [T]; needed by layers that choose by token id (GateConfig::vocabulary) where
  /// no ids are given, absent else
  ConstTensor token_ids{};
  int64_t max_tokens =
      -1;  // bound of T on every rank in THIS call, equal on every rank; -1: the capacity
  CUstream_st* stream = nullptr;  // CUDA: work is enqueued here. CPU: ignored, work runs at once
  /// Elements from one row of hidden, or of output, to the next, at least H; 0: H. Others than H
  /// need LayerOptions::strided_rows.
  int64_t hidden_stride = 0;
  int64_t output_stride = 0;
  /// inout  in place of the layer's, MoeLayer::workspace_bytes, until the work is done; any bytes
  Workspace workspace{};
};

/// The expert part of one MoE layer: gate, dispatch, experts, combine, shared experts.
///
/// Thread safety: one thread at a time calls the layers of a backend; a forward that finds another
/// one there throws Unsupported and does nothing. Layers with different communicators are
/// independent, every rank calls those of one in the same order. Ownership: the layer borrows
/// communicator and weights (unless weights.owner is set), owns its state (a status, and what peers
/// know) and, unless it is given one, its workspace. Nothing is allocated in forward.
///
/// Errors, on every rank or on none: forward checks its arguments first and throws at once. When a
/// single rank's arguments are wrong it still takes part, without rows, so no peer waits for it;
/// the peers learn of it. What only the device or a peer can know (ids out of range, too small a
/// capacity, a lost rank) sets a sticky status and fills the output with NaN; `wait` throws it on
/// every rank, and so does the next forward that can see it. Having been thrown, it is cleared,
/// unless the communicator is over (Transport): then every call throws until a new layer is made,
/// but with PlanOptions::lost_rank_timeout, where calls may go on without the rank that is lost.
class MoeLayer {
 public:
  /// Collective. Checks config, weights and strategy before it allocates.
  /// Throws Error: ShapeMismatch, Misaligned, Unsupported (see choose_strategy), alike on every
  /// rank for wrong shared arguments.
  static std::unique_ptr<MoeLayer> create(const MoeConfig& config, const LayerWeights& weights,
                                          Communicator& communicator, const LayerOptions& options);
  /// The same on one rank, without a communicator.
  static std::unique_ptr<MoeLayer> create(const MoeConfig& config, const LayerWeights& weights,
                                          const LayerOptions& options);

  /// In place of create, for a rank whose caller gave what cannot become arguments of it, as a
  /// binding may find: it takes part, and the peers' create throws ShapeMismatch, that this rank
  /// refused its arguments. Collective with their create; nothing on one rank. Returns then: the
  /// caller knows the error. Throws Error(Transport) when a peer is lost.
  static void refuse_create(Communicator& communicator);

  /// Bytes of the workspace that a layer with these options needs, for callers who bring it. Grows
  /// with max_tokens.
  static size_t workspace_bytes(const MoeConfig& config, int num_ranks,
                                const LayerOptions& options);

  virtual ~MoeLayer() = default;

  virtual const MoeConfig& config() const = 0;
  virtual const Strategy& strategy() const = 0;
  /// The layer's own gate: the ids and weights it would choose. Throws Unsupported without a
  /// router.
  virtual Gate& gate() = 0;
  virtual size_t workspace_bytes() const = 0;
  /// Bytes of what the layer owns whoever brings the workspace: below 1 KiB but for windows of ranks
  /// that reach each other's memory.
  virtual size_t state_bytes() const = 0;

  /// Where hidden states are best written: bf16 [max_tokens, H] of the workspace on the layer's
  /// device. A forward whose `hidden` begins here copies no row; it may be any other memory, too,
  /// but none that overlaps this and begins elsewhere. Absent where no place is better than
  /// another: where ranks do not fetch rows from each other's memory (Strategy::fetch_rows), and in
  /// tensor-parallel groups. forward does not change the rows; they may be written again, in the
  /// order of its stream, once it is done. No other rank has to agree.
  virtual Tensor input_rows() const = 0;
  /// What keeps the memory of input_rows, for views that outlive `grow` or the layer; null where the
  /// caller lends the workspace, or brings it to each call.
  virtual std::shared_ptr<void> workspace_memory() const = 0;

  /// output = experts of each token, weighted and summed, plus shared experts. Collective, also
  /// with T = 0. Enqueues and returns: no host synchronisation (see LayerOptions::host_counts for
  /// the one exception), no allocation. Throws Error:
  /// ShapeMismatch or Misaligned for these arguments; a sticky error of an earlier call.
  virtual ForwardReport forward(const ForwardArgs& args) = 0;

  /// In place of forward, as refuse_create is of create: this rank takes part without rows, and the
  /// peers' `wait` throws ShapeMismatch, that it refused its arguments. `max_tokens` and `stream` are
  /// those of ForwardArgs; the capacity is taken for a bound that is none. Nothing on one rank.
  /// Throws, as forward, the sticky error of an earlier call, which comes first.
  virtual void refuse_forward(int64_t max_tokens, CUstream_st* stream) = 0;

  /// Waits until every forward enqueued on `stream` is done; beside `grow` the only call that
  /// synchronises.
  /// Throws what they could not: BadRouting, Transport, or the error of a peer's arguments. Call it
  /// on every rank.
  virtual void wait(CUstream_st* stream = nullptr) = 0;

  /// From here on, in the order of `stream`, ids go to the slots of another table of the layer's S
  /// weight slots (LayerOptions::placement): also those of graphs that were captured before. Not
  /// collective, but every rank calls it with the same table between the same two forwards; a
  /// forward in which tables differ ends as other errors that only peers can know: ShapeMismatch, on
  /// every rank. The host does not wait. Not while `stream` is captured.
  ///
  /// The table that is not in use is written, then one word says that it is. So kernels that run
  /// meanwhile, on whatever stream, see one or the other. A slot that no expert has in the tables of
  /// calls under way may be written: its weights are not read.
  ///
  /// Throws Error: Unsupported for a layer without a placement, or a stream that is captured;
  /// ShapeMismatch for a table that breaks the rules of LayerOptions::placement. The old table stays
  /// in use then.
  virtual void set_placement(std::span<const int32_t> expert_of_slot,
                             CUstream_st* stream = nullptr) = 0;

  /// From here on, in the order of `stream`, calls have these ranks only: also those of graphs that were
  /// captured before. For layers with PlanOptions::lost_rank_timeout, whose call without a rank that has
  /// ended threw Transport, as each further one does until that rank is left out here. Not collective,
  /// but every rank that goes on calls it with the same ranks between the same two forwards; one in
  /// which they differ is an error on each of them. The host does not wait. Not while `stream` is
  /// captured.
  ///
  ///   ranks  in  [any order] ranks that calls still have, this one among them
  ///
  /// A choice of an expert whose rank is left out adds nothing, its weight included, and is counted
  /// (dropped_routes), unless a replica of it is on another rank (LayerOptions::placement): then that
  /// one is taken. A rank that is left out has ended, or its forward threw: it must not be in a call.
  /// It never comes back; a new layer has it again.
  ///
  /// Throws Error: Unsupported without lost_rank_timeout, or a stream that is captured; ShapeMismatch
  /// for ranks that are none, were left out before, or lack this one. Nothing changes then.
  virtual void set_active_ranks(std::span<const int32_t> ranks, CUstream_st* stream = nullptr) = 0;

  /// The active ranks that a call waited for in vain, rising: those that this rank found missing, or
  /// that a peer did. Waits for `stream`, throws nothing of earlier calls. Empty without
  /// lost_rank_timeout.
  virtual std::vector<int32_t> missing_ranks(CUstream_st* stream = nullptr) = 0;

  /// i64 [1] on the layer's device: choices of this rank's tokens that were dropped since the layer was
  /// made, because the expert's rank is left out. Read and cleared as expert_loads, and stays
  /// where it is. Absent without lost_rank_timeout.
  virtual Tensor dropped_routes() const = 0;

  /// i64 [E] on the layer's device: how often each expert was chosen by the tokens that this rank
  /// routes, since the layer was made: all, or its slice in a tensor-parallel group whose rows
  /// travel. Forwards add to it in the order of their streams; whoever reads or clears it does so in
  /// that order. Of a call that ended with an error it may have a part. It stays where it is, also
  /// when the layer grows. Absent without LayerOptions::count_loads.
  virtual Tensor expert_loads() const = 0;

  /// The capacity becomes at least `max_tokens`, equal on every rank; weights stay where they are.
  /// Collective, without a rank that was left out: Unsupported then.
  /// Waits as `wait` does, for all that was enqueued, and throws what it would. Then as
  /// create: on an error the layer stays as it was, unless ranks are lost. A lent workspace must be
  /// large enough. What was captured before has the old capacity and workspace: capture it again.
  virtual void grow(int64_t max_tokens, CUstream_st* stream = nullptr) = 0;
};

}  // namespace switchyard
