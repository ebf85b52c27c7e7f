// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/low_latency.cc -- few tokens over memory that ranks reach in each other, by as few
// kernels as there can be: every one that pushes also tells, and its last block waits.
//
//     quantize_rows  where rows travel in f8_e4m3: codes and scales of this rank's tokens
//     deliver_rows   token rows, ids and weights into the block of this rank in every window that gets
//                    them, one after the other, and how many there are; every rank's have come
//                    the executor
//     return_rows    partial rows into the block of this rank in the windows that the tokens came from,
//                    or the experts' rows to the slots of the tokens; every rank's have come
//     sum_rows       in fp32: partial rows in rank order, or weighted rows in the order of the slots
//
// Rows of a call are pushed by who has waited for the partial rows of the call before, which every
// rank sent once its executor and return_rows were through with what came. Partial rows are pushed by
// who has waited for the rows of this call, which every rank sent once its sum_rows was through. So
// one window is enough, and nothing is cleared.
//
// Of calls that can go on without ranks (PeerWindow::active) who waits for one in vain, for as long as
// may be, sets its bit in every window; then nobody waits for it, and the call ends with an error on
// each rank that is there, as all do in which an active rank is missing. Statuses travel with both
// meetings, so what one rank saw every other one learns.
#include "base/enqueue_lock.h"
#include "dispatcher/peer_connections.h"
#include "plan/low_latency_buffers.h"

namespace switchyard {
namespace {

class LowLatencyDispatcher final : public Dispatcher {
 public:
  explicit LowLatencyDispatcher(DispatcherParts parts) : parts_(std::move(parts)) {}

  DispatcherKind kind() const override { return DispatcherKind::LowLatency; }
  int64_t max_rows(int64_t max_tokens) const override { return parts_.max_rows(max_tokens); }
  size_t workspace_bytes(int64_t max_tokens) const override {
    Arena arena({});
    take_buffers(arena, max_tokens);
    return arena.bytes();
  }
  Slice slice(int64_t num_tokens) const override { return parts_.slice(num_tokens); }
  bool serializes_enqueue() const override { return connections_.serializes_enqueue(); }
  bool combine_poisons() const override { return parts_.options.tp_size == 1; }

  void connect(Workspace workspace, int64_t max_tokens,
               const std::shared_ptr<void>& owner) override {
    connections_.add(workspace, max_tokens, owner,
                     [&](Arena& arena) { return take_buffers(arena, max_tokens); });
  }

  ConstTensor missing_ranks(Workspace workspace) const override {
    const Tensor control = connections_.find(workspace, 0).buffers.control;
    return parts_.options.active_ranks.present() ? control.rows(kControlNoted, 1) : Tensor();
  }

  DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                          ConstTensor weights, int64_t max_tokens, Tensor status,
                          CUstream_st* stream) override {
    const EnqueueLock lock(serializes_enqueue());
    const Slice own = slice(hidden.dim(0));
    parts_.check(hidden, ids, weights, max_tokens, own);
    const Connection& c = connections_.find(workspace, max_tokens);
    connections_.require_stream(c, stream);
    const LowLatencyBuffers& b = c.buffers;
    const ConstRowParts tokens =
        parts_.travelling(b.own_rows, hidden.rows(own.begin, own.size), stream);
    connections_.in_parts(DeliverRows{.window = c.window,
                                      .rows = tokens,
                                      .ids = ids,
                                      .weights = weights,
                                      .num_experts = parts_.config.num_experts,
                                      .block = block_of(max_tokens),
                                      .max_tokens = max_tokens,
                                      .num_tokens = hidden.dim(0),
                                      .placement = parts_.options.placement,
                                      .tp_size = parts_.options.tp_size,
                                      .dropped = parts_.options.dropped_routes,
                                      .dst_rows = b.rows,
                                      .dst_ids = b.ids,
                                      .dst_weights = b.weights,
                                      .dst_tokens = b.tokens,
                                      .sent = b.sent,
                                      .counts = b.counts,
                                      .num_rows = b.num_rows,
                                      .return_row = first_rows(b.return_row, own.size),
                                      .return_slot = first_rows(b.return_slot, own.size),
                                      .status = status},
                          stream);
    const int64_t rows = max_rows(max_tokens);
    return {.received = {.source = source_of(b.rows.rows(0, rows)),
                         .ids = b.ids.rows(0, rows),
                         .weights = b.weights.rows(0, rows),
                         .num_rows = b.num_rows,
                         .has_gaps = true},
            .num_tokens = hidden.dim(0),
            .max_tokens = max_tokens,
            .workspace = workspace,
            .weights = weights};
  }

  // return_rows sums them on their way.
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall&, Tensor,
                          CUstream_st*) override {
    return {{}, sums};
  }

  void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
               const Addend& addend, Tensor status, CUstream_st* stream) override {
    const EnqueueLock lock(serializes_enqueue());
    SWITCHYARD_REQUIRE(!sums_at_source() || !partial.rows.present(), ShapeMismatch,
                       "combine: rows are given as partial sums, this dispatcher sums rows of "
                       "experts at their source. Pass PartialRows::sums.");
    const Connection& c = connections_.find(call.workspace, call.max_tokens);
    const LowLatencyBuffers& b = c.buffers;
    const SlotSums sums = partial.rows.present() ? SlotSums{partial.rows, {}, {}} : partial.sums;
    connections_.in_parts(ReturnRows{.window = c.window,
                                     .sums = sums,
                                     .counts = b.counts,
                                     .block = block_of(call.max_tokens),
                                     .tokens = b.tokens,
                                     .dst = b.returned,
                                     .status = status},
                          stream);
    const int64_t size = slice(call.num_tokens).size;
    const bool sliced = b.output_slice.present();
    const Tensor target = sliced ? b.output_slice.rows(0, size) : dst;
    SumRows sum = sum_partials(target, b.returned, first_rows(b.return_row, size), addend);
    if (sums_at_source()) {
      sum.sums.row_of_slot = b.return_slot.rows(0, size);
      if (sums.weights.present()) sum.sums.weights = call.weights;
    }
    sum.poison = status;
    parts_.ops().run(sum, stream);
    if (sliced) connections_.gather_slices(c, dst, status, stream);
  }

 private:
  using Connection = PeerConnections<LowLatencyBuffers>::Connection;

  bool sums_at_source() const { return parts_.options.sums_at_source; }
  int64_t block_of(int64_t max_tokens) const {
    return slice_capacity(max_tokens, parts_.options.tp_size);
  }
  LowLatencyBuffers take_buffers(Arena& arena, int64_t max_tokens) const {
    return LowLatencyBuffers::take(arena, parts_.config, max_tokens, parts_.num_ranks(),
                                   parts_.options.tp_size, parts_.options.rows, sums_at_source());
  }
  static Tensor first_rows(Tensor t, int64_t size) { return t.present() ? t.rows(0, size) : t; }

  DispatcherParts parts_;
  PeerConnections<LowLatencyBuffers> connections_{parts_};
};

}  // namespace

std::unique_ptr<Dispatcher> make_low_latency_dispatcher(DispatcherParts parts) {
  return std::make_unique<LowLatencyDispatcher>(std::move(parts));
}

}  // namespace switchyard
