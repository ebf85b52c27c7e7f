// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/peer.cc -- dispatchers over memory that ranks reach in each other, but for that of
// low latency. The host takes no part: kernels write, tell and wait.
//
//     push_rows      ids and weights to every rank, a token row once to each rank that gets it (or
//                    into this rank's own window, if owners fetch it): every source has a block of
//                    rows of its own, so nobody waits to learn how many others send
//     await_rows     ... have arrived, and what ranks were asked agrees
//                    the executor writes partial rows into this rank's window
//     meet: partials statuses travel, partial rows may be read
//     pull_sums      fp32, in rank order, straight out of the peers' windows; this rank's own terms
//                    perhaps from its experts' rows, where the executor left them out
//
// Whoever waited for the partial rows of call n knows that its peers' executors are through with
// what was pushed to them, or fetched: their rows may be written again. Whoever waited for the rows
// of call n + 1 knows that its peers have pulled the partial rows of call n, and may compute the
// next ones. Calls with workspaces of their own share nothing.
#include "base/enqueue_lock.h"
#include "base/overlap.h"
#include "dispatcher/peer_connections.h"

namespace switchyard {
namespace {

class PeerDispatcher final : public Dispatcher {
 public:
  explicit PeerDispatcher(DispatcherParts parts) : parts_(std::move(parts)) {}

  DispatcherKind kind() const override { return parts_.options.kind; }
  int64_t max_rows(int64_t max_tokens) const override { return parts_.max_rows(max_tokens); }
  size_t workspace_bytes(int64_t max_tokens) const override {
    return static_cast<size_t>(dispatcher_bytes(
        kind(), parts_.config, max_tokens, parts_.num_ranks(), parts_.options.tp_size, travel()));
  }
  Slice slice(int64_t num_tokens) const override { return parts_.slice(num_tokens); }
  bool serializes_enqueue() const override { return connections_.serializes_enqueue(); }

  void connect(Workspace workspace, int64_t max_tokens,
               const std::shared_ptr<void>& owner) override {
    connections_.add(workspace, max_tokens, owner, [&](Arena& arena) {
      return PeerBuffers::take(arena, kind(), parts_.config, max_tokens, parts_.num_ranks(),
                               parts_.options.tp_size, travel());
    });
  }

  Tensor input_rows(Workspace workspace) const override {
    return input_rows_of(connections_.find(workspace, 0));
  }

  DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                          ConstTensor weights, int64_t max_tokens, Tensor status,
                          CUstream_st* stream) override {
    const EnqueueLock lock(serializes_enqueue());
    const Slice own = slice(hidden.dim(0));
    parts_.check(hidden, ids, weights, max_tokens, own);
    const Connection& c = connections_.find(workspace, max_tokens);
    check_place("dispatch", hidden, input_rows_of(c));
    connections_.require_stream(c, stream);
    const PeerBuffers& b = c.buffers;
    const int64_t rows = max_rows(max_tokens);
    Ops& ops = parts_.ops();
    const bool moves = kind() != DispatcherKind::Local;
    const RowParts& room = route() == PeerRoute::Offered ? b.rows : b.own_rows;
    const int64_t block = moves ? slice_capacity(max_tokens, parts_.options.tp_size) : max_tokens;
    ops.run(PushRows{.window = c.window,
                     .rows = parts_.travelling(room, hidden.rows(own.begin, own.size), stream),
                     .ids = ids,
                     .weights = weights,
                     .num_experts = parts_.config.num_experts,
                     .block = block,
                     .route = route(),
                     .dst_rows = b.rows,
                     .dst_ids = b.ids,
                     .dst_weights = b.weights,
                     .return_row = b.return_row.rows(0, own.size),
                     .status = status},
            stream);
    connections_.in_parts(AwaitRows{.window = c.window,
                                    .max_tokens = max_tokens,
                                    .num_tokens = hidden.dim(0),
                                    .placement = parts_.options.placement,
                                    .tp_size = parts_.options.tp_size,
                                    .num_rows = b.num_rows,
                                    .rows = moves ? rows : own.size,
                                    .status = status},
                          stream);
    DispatchedCall call{.received = {.source = {hidden},
                                     .ids = b.ids.rows(0, rows),
                                     .weights = weights,
                                     .num_rows = b.num_rows},
                        .num_tokens = hidden.dim(0),
                        .max_tokens = max_tokens,
                        .workspace = workspace,
                        .weights = weights};
    if (!moves) return call;
    call.received.weights = b.weights.rows(0, rows);
    call.received.has_gaps = true;
    call.received.source = source_of(b.rows.rows(0, rows));
    if (route() == PeerRoute::Offered)
      call.received.source = source_of(b.rows.rows(0, block), c.window.memory(), block);
    return call;
  }

  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor,
                          CUstream_st* stream) override {
    const Connection& c = connections_.find(call.workspace, call.max_tokens);
    const Tensor partial = c.buffers.partial.rows(0, max_rows(call.max_tokens));
    if (sums.rows.present())
      parts_.ops().run(gather_rows(partial, sums, call.received, {}, own_rows(c, call)), stream);
    return {partial, sums};
  }

  void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
               const Addend& addend, Tensor status, CUstream_st* stream) override {
    const EnqueueLock lock(serializes_enqueue());
    const Slice own = slice(call.num_tokens);
    const Connection& c = connections_.find(call.workspace, call.max_tokens);
    const PeerBuffers& b = c.buffers;
    Ops& ops = parts_.ops();
    if (partial.rows.data != b.partial.data)
      ops.run(Copy{b.partial.rows(0, partial.rows.dim(0)), partial.rows}, stream);
    connections_.in_parts(MeetPeers{.window = c.window,
                                    .phase = PeerPhase::Partials,
                                    .first = 0,
                                    .num = parts_.num_ranks(),
                                    .status = status},
                          stream);
    const bool sliced = b.output_slice.present();
    SumRows sum = sum_partials(sliced ? b.output_slice.rows(0, own.size) : dst, b.partial,
                               b.return_row.rows(0, own.size), addend);
    sum.peers = c.window.memory();
    sum.own = own_sums(c, partial.sums, call);
    sum.status = status;
    sum.max_blocks = c.window.max_blocks;
    ops.run(sum, stream);
    if (!sliced) return;
    connections_.gather_slices(c, dst, status, stream);
  }

 private:
  using Connection = PeerConnections<PeerBuffers>::Connection;

  // Received rows of this rank's own tokens, where combine sums them itself while the link is busy.
  // By few blocks, link and memory would have to share them; of more ranks less is own.
  RowRange own_rows(const Connection& c, const DispatchedCall& call) const {
    const int64_t size = slice(call.num_tokens).size;
    const bool worth_it = route() == PeerRoute::Offered && c.window.max_blocks == 0 &&
                          parts_.num_ranks() == 2 && !parts_.config.f32_sums &&
                          size >= parts_.options.own_sums_from;
    return worth_it ? RowRange{parts_.rank() * call.received.source.block, size} : RowRange{};
  }

  // Weights that arrived are no use by now: a peer may be at the next call.
  SlotSums own_sums(const Connection& c, const SlotSums& all, const DispatchedCall& call) const {
    const RowRange own = own_rows(c, call);
    if (own.size == 0 || !all.rows.present()) return {};
    return {all.rows, all.row_of_slot.rows(own.begin, own.size),
            all.weights.present() ? call.weights : ConstTensor{}};
  }

  PeerRoute route() const {
    switch (kind()) {
      case DispatcherKind::Local: return PeerRoute::Nobody;
      case DispatcherKind::AllGather: return PeerRoute::Everyone;
      case DispatcherKind::Normal:
      case DispatcherKind::LowLatency: break;  // the latter has a dispatcher of its own
    }
    return parts_.options.fetch_rows ? PeerRoute::Offered : PeerRoute::Owners;
  }

  // A group's ranks each offer their slice of the group's tokens.
  Tensor input_rows_of(const Connection& c) const {
    if (route() != PeerRoute::Offered || parts_.options.tp_size > 1) return {};
    return parts_.options.rows == DType::Bf16 ? c.buffers.rows[0] : Tensor{};
  }

  RowTravel travel() const {
    return {route() == PeerRoute::Offered ? RowCarrier::PeerFetch : RowCarrier::PeerPush,
            parts_.options.rows};
  }

  DispatcherParts parts_;
  PeerConnections<PeerBuffers> connections_{parts_};
};

}  // namespace

std::unique_ptr<Dispatcher> make_peer_dispatcher(DispatcherParts parts) {
  return std::make_unique<PeerDispatcher>(std::move(parts));
}

}  // namespace switchyard
