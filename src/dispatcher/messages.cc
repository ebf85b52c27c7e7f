// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/messages.cc -- the dispatchers whose rows travel in messages: the host knows the sizes
// of every exchange, or gives their bound.
#include "dispatcher/parts.h"

namespace switchyard {
namespace {

// The header every dispatch begins with, and the status every combine begins with: what makes errors
// reach every rank or none. One rank's side of the exchanges of one call.
struct Exchange {
  Ops& ops;
  RowTransport& transport;
  const DispatchBuffers& buffers;
  ConstTensor placement;  // DispatcherOptions::placement
  Tensor status;
  CUstream_st* stream;

  // Status, max_tokens, placement, T, and `counts` (rows to each rank, may be absent) reach every
  // rank with the next exchange, at once with `send`. Once heard, status holds the same words
  // everywhere.
  void send_header(int64_t max_tokens, int64_t num_tokens, ConstTensor counts) const {
    const Tensor& header = buffers.header;
    ops.run(Copy{header.rows(0, kStatusWords), status}, stream);
    ops.run(FillI32{header.rows(kHeaderMaxTokens, 2), static_cast<int32_t>(max_tokens)}, stream);
    if (placement.present()) ops.run(Copy{header.rows(kHeaderPlacement, 1), placement}, stream);
    ops.run(FillI32{header.rows(kHeaderTokens, 1), static_cast<int32_t>(num_tokens)}, stream);
    const Tensor to_ranks = header.rows(kHeaderCounts, transport.size());
    if (counts.present())
      ops.run(Copy{to_ranks, counts}, stream);
    else
      ops.run(FillI32{to_ranks, 0}, stream);
    gather(buffers.headers, header);
  }
  void receive_headers(int tp_size) const {
    ops.run(CheckHeaders{status, buffers.headers, tp_size}, stream);
  }

  // The same for what went wrong since (an executor's overflow).
  void send_status() const {
    const Tensor mine = buffers.header.rows(0, kStatusWords);
    ops.run(Copy{mine, status}, stream);
    gather(status_headers(), mine);
  }
  void receive_statuses() const { ops.run(MergeStatus{status, status_headers()}, stream); }

  void gather(Tensor dst, ConstTensor src) const { transport.gather(dst, src, stream); }
  void send() const { transport.send(stream); }
  void rows(const RowParts& dst, const ConstRowParts& src, const RowBlocks& blocks,
            ConstTensor send_rows, ConstTensor counts) const {
    transport.exchange_rows({dst, src, blocks, send_rows, counts}, stream);
  }

 private:
  // i32 [P, kStatusWords]
  Tensor status_headers() const {
    Tensor all = buffers.headers;
    all.shape = {transport.size(), kStatusWords};
    return all;
  }
};

// What goes into a dispatch.
struct DispatchInput {
  ConstTensor hidden, ids, weights;
  int64_t max_tokens;
  Dispatcher::Slice own;
};

// What these dispatchers have in common: how their calls begin and end.
class MessageDispatcher : public Dispatcher {
 public:
  explicit MessageDispatcher(DispatcherParts parts) : parts_(std::move(parts)) {}

  DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                          ConstTensor weights, int64_t max_tokens, Tensor status,
                          CUstream_st* stream) final {
    const Slice own = slice(hidden.dim(0));
    parts_.check(hidden, ids, weights, max_tokens, own);
    check_stream(stream);
    const auto buffers = take_buffers(workspace, max_tokens);
    return {.received =
                send(exchange(buffers, status, stream), {hidden, ids, weights, max_tokens, own}),
            .num_tokens = hidden.dim(0),
            .max_tokens = max_tokens,
            .workspace = workspace,
            .weights = weights,
            .ids = ids};
  }
  void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
               const Addend& addend, Tensor status, CUstream_st* stream) final {
    if (!partial.rows.present()) {
      if (!partial.sums.rows.present()) return;
      SumRows sum = gather_rows(dst, partial.sums, call.received, addend);
      sum.poison = status;
      parts_.ops().run(sum, stream);
      return;
    }
    const auto buffers = take_buffers(call.workspace, call.max_tokens);
    const Exchange back = exchange(buffers, status, stream);
    back.send_status();
    send_back(back, dst, partial.rows, call, addend);
    parts_.transport->note_lost(status, stream);
  }

  int64_t max_rows(int64_t max_tokens) const override { return parts_.max_rows(max_tokens); }
  size_t workspace_bytes(int64_t max_tokens) const override {
    return static_cast<size_t>(dispatcher_bytes(
        kind(), parts_.config, max_tokens, parts_.num_ranks(), parts_.options.tp_size,
        {parts_.carrier, parts_.options.rows}, parts_.options.sums_at_source));
  }
  Slice slice(int64_t num_tokens) const override { return parts_.slice(num_tokens); }
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                          CUstream_st* stream) override {
    if (sums.rows.present()) parts_.ops().run(gather_rows(room, sums, call.received), stream);
    return {room, sums};
  }
  void check_stream(CUstream_st* stream) const override { parts_.transport->check_stream(stream); }
  void before_wait(CUstream_st* stream) override { parts_.transport->before_wait(stream); }
  std::string why_lost() override { return parts_.transport->why_lost(); }

 protected:
  virtual ReceivedRows send(const Exchange& exchange, const DispatchInput& in) = 0;
  // Only where there are partial rows.
  virtual void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                         const DispatchedCall& call, const Addend& addend) = 0;

  // Global ids of the received rows -> dst. num_rows absent: all rows of `src`.
  void localize(Tensor dst, ConstTensor src, ConstTensor num_rows, const Exchange& exchange) const {
    const int64_t num_experts = parts_.config.num_experts;
    const int64_t num_local = experts_of_rank(num_experts, parts_.num_ranks());
    exchange.ops.run(LocalizeIds{dst, src, num_rows, parts_.rank() * num_local, num_local,
                                 num_experts, parts_.rank(), exchange.status},
                     exchange.stream);
  }

  Exchange exchange(const DispatchBuffers& buffers, Tensor status, CUstream_st* stream) const {
    return {parts_.ops(), *parts_.transport, buffers, parts_.options.placement, status, stream};
  }
  DispatchBuffers take_buffers(Workspace workspace, int64_t max_tokens) const {
    Arena arena(workspace, parts_.backend->kind());
    const auto buffers = DispatchBuffers::take(
        arena, kind(), parts_.config, max_tokens, parts_.num_ranks(), parts_.options.tp_size,
        {parts_.carrier, parts_.options.rows}, parts_.options.sums_at_source);
    arena.require_memory("dispatch");
    return buffers;
  }

  DispatcherParts parts_;
};

// A slice's output rows -> all T rows on every rank of the tensor-parallel group.
class SliceGather {
 public:
  // Collective when tp_size > 1.
  explicit SliceGather(const DispatcherParts& parts) {
    if (parts.options.tp_size > 1)
      group_ = parts.transport->split(parts.rank() / parts.options.tp_size);
  }

  // Sums the returned partial rows of this rank's slice, and fills dst from every rank's.
  void sum_and_gather(const Exchange& exchange, Tensor dst, ConstTensor return_row,
                      Dispatcher::Slice own, const Addend& addend) const {
    sum_and_gather(exchange, dst, own,
                   sum_partials(dst, exchange.buffers.returned, return_row, addend));
  }

  // The same of any sums of the slice's rows.
  void sum_and_gather(const Exchange& exchange, Tensor dst, Dispatcher::Slice own,
                      SumRows sum) const {
    const DispatchBuffers& b = exchange.buffers;
    if (group_) sum.dst = b.output_slice.rows(0, own.size);
    exchange.ops.run(sum, exchange.stream);
    if (!group_) return;
    // Slices travel at their capacity, so that sizes depend on the call's bound only; what pads them
    // is cut here.
    group_->gather(b.output_slices, b.output_slice, exchange.stream);
    group_->send(exchange.stream);
    const int64_t capacity = b.output_slice.dim(0);
    for (int r = 0; r < group_->size(); ++r) {
      const auto slice = slice_of(dst.dim(0), r, group_->size());
      exchange.ops.run(
          Copy{dst.rows(slice.begin, slice.size), b.output_slices.rows(r * capacity, slice.size)},
          exchange.stream);
    }
  }

 private:
  std::unique_ptr<RowTransport> group_;  // null when tp_size == 1
};

// Nothing moves on the way in. One rank: the executor's rows are final.
// tp = P: every rank holds all tokens, runs its own experts, and partial rows are summed at the
// end.
class LocalDispatcher final : public MessageDispatcher {
 public:
  using MessageDispatcher::MessageDispatcher;

  DispatcherKind kind() const override { return DispatcherKind::Local; }
  int64_t max_rows(int64_t max_tokens) const override { return max_tokens; }
  Slice slice(int64_t num_tokens) const override { return {0, num_tokens}; }

  ReceivedRows send(const Exchange& exchange, const DispatchInput& in) override {
    if (parts_.num_ranks() == 1)
      return {.source = {in.hidden},
              .ids = in.ids,
              .weights = in.weights,
              .num_rows = {},
              .ids_are_given = true};
    const DispatchBuffers& b = exchange.buffers;
    const int64_t num_tokens = in.hidden.dim(0);
    exchange.ops.run(FillI32{b.num_rows, static_cast<int32_t>(num_tokens)}, exchange.stream);
    localize(b.ids, in.ids, {}, exchange);
    exchange.send_header(in.max_tokens, num_tokens, {});
    exchange.send();
    exchange.receive_headers(parts_.num_ranks());
    return {{in.hidden}, b.ids, in.weights, b.num_rows};
  }

  bool combine_poisons() const override { return parts_.num_ranks() == 1; }

  // One rank's rows are final: combine sums them, and rounds once.
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                          CUstream_st* stream) override {
    if (parts_.num_ranks() == 1) return {{}, sums};
    return MessageDispatcher::sum_experts(sums, call, room, stream);
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const DispatchBuffers& b = exchange.buffers;
    exchange.gather(b.returned, partial.rows(0, call.max_tokens));
    exchange.send();
    exchange.receive_statuses();
    const Tensor return_row = b.return_row.rows(0, call.num_tokens);
    exchange.ops.run(BlockRows{return_row, call.max_tokens}, exchange.stream);
    exchange.ops.run(sum_partials(dst, b.returned, return_row, addend), exchange.stream);
  }
};

// A token row crosses once to each rank that owns one of its experts;
// one partial row per (token, rank) comes back and is summed in fp32 in rank order.
// Messages know no lower latency, so it is that of LowLatency, too.
class NormalDispatcher : public MessageDispatcher {
 public:
  explicit NormalDispatcher(DispatcherParts parts)
      : MessageDispatcher(std::move(parts)), slices_(parts_) {}

  DispatcherKind kind() const final { return parts_.options.kind; }

  ReceivedRows send(const Exchange& exchange, const DispatchInput& in) override {
    const DispatchBuffers& b = exchange.buffers;
    exchange.ops.run(PlanDispatch{.send_rows = b.send_rows,
                                  .send_counts = b.send_counts,
                                  .return_row = b.return_row.rows(0, in.own.size),
                                  .ids = in.ids,
                                  .num_experts = parts_.config.num_experts,
                                  .num_ranks = parts_.num_ranks(),
                                  .rank = parts_.rank(),
                                  .status = exchange.status},
                     exchange.stream);
    exchange.send_header(in.max_tokens, in.hidden.dim(0), b.send_counts);
    exchange.send();
    exchange.receive_headers(parts_.options.tp_size);
    exchange.transport.note_lost(exchange.status, exchange.stream);
    exchange.ops.run(
        ReadCounts{b.counts, b.counts_back, b.num_rows, b.headers, parts_.rank(), exchange.status},
        exchange.stream);

    const ConstRowParts own =
        parts_.travelling(b.own_rows, in.hidden.rows(in.own.begin, in.own.size), exchange.stream);
    exchange.rows(b.rows.with_slots(b.received_ids, b.weights), own.with_slots(in.ids, in.weights),
                  b.blocks.there, b.send_rows, b.counts);
    localize(b.ids, b.received_ids, b.num_rows, exchange);
    return {source_of(b.rows), b.ids, b.weights, b.num_rows};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    exchange.rows(b.returned, partial, b.blocks.back, {}, b.counts_back);
    exchange.receive_statuses();
    slices_.sum_and_gather(exchange, dst, b.return_row.rows(0, own.size), own, addend);
  }

 protected:
  SliceGather slices_;
};

// The experts' rows come back, K to a received row, each at its slot, and their tokens' rank sums them.
class SourceSumsDispatcher final : public NormalDispatcher {
 public:
  using NormalDispatcher::NormalDispatcher;

  // Rows to the slots that they are of; places of slots without one hold anything.
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor,
                          CUstream_st* stream) override {
    const Tensor rows = take_buffers(call.workspace, call.max_tokens).slot_rows;
    if (!sums.rows.present()) return {rows, sums};
    const int64_t top_k = parts_.config.top_k, num_slots = sums.row_of_slot.count();
    ConstTensor each = sums.row_of_slot;
    each.shape = {num_slots, 1};
    parts_.ops().run(SumRows{.name = "gather_rows",
                             .dst = of_slots(rows.rows(0, num_slots / top_k)),
                             .sums = {sums.rows, each, {}},
                             .kept = {true, {}}},
                     stream);
    return {rows, sums};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor slot_rows,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    exchange.rows(b.returned, slot_rows, b.blocks.back, {}, b.counts_back);
    exchange.receive_statuses();
    const Tensor places = b.return_slot.rows(0, own.size);
    exchange.ops.run(PlaceSlots{.dst = places,
                                .return_row = b.return_row.rows(0, own.size),
                                .ids = call.ids,
                                .num_experts = parts_.config.num_experts},
                     exchange.stream);
    SumRows sum = sum_partials(dst, of_slots(b.returned), places, addend);
    if (!parts_.config.router_weight_on_input) sum.sums.weights = call.weights;
    sum.poison = exchange.status;
    slices_.sum_and_gather(exchange, dst, own, sum);
  }

 private:
  // [N, K * H] as [N * K, H].
  Tensor of_slots(Tensor rows) const {
    rows.shape = {rows.dim(0) * parts_.config.top_k, parts_.config.hidden};
    return rows;
  }
};

// Every rank's slice, padded to the call's bound, to every rank;
// equal blocks of partial rows back, summed in fp32 in rank order (a reduce-scatter that rounds
// once). The honest baseline: sizes never depend on the routing.
class AllGatherDispatcher final : public MessageDispatcher {
 public:
  explicit AllGatherDispatcher(DispatcherParts parts)
      : MessageDispatcher(std::move(parts)), slices_(parts_) {}

  DispatcherKind kind() const override { return DispatcherKind::AllGather; }

  ReceivedRows send(const Exchange& exchange, const DispatchInput& in) override {
    const auto& [hidden, ids, weights, max_tokens, own] = in;
    const DispatchBuffers& b = exchange.buffers;
    Ops& ops = exchange.ops;
    CUstream_st* stream = exchange.stream;
    exchange.send_header(max_tokens, hidden.dim(0), {});

    // Rows that pad a slice are sent as they are and never read: their ids are -1.
    const auto padded = [&](Tensor block, ConstTensor rows) -> ConstTensor {
      if (rows.dim(0) == block.dim(0)) return rows;
      if (rows.data != block.data) ops.run(Copy{block.rows(0, rows.dim(0)), rows}, stream);
      return block;
    };
    if (own.size < b.own_ids.dim(0)) ops.run(FillI32{b.own_ids, kNoExpert}, stream);
    exchange.gather(b.received_ids, padded(b.own_ids, ids));
    const ConstRowParts rows =
        parts_.travelling(b.own_rows, hidden.rows(own.begin, own.size), stream);
    for (size_t i = 0; i < rows.size(); ++i)
      exchange.gather(b.rows[i], padded(b.own_rows[i], rows[i]));
    exchange.gather(b.weights, padded(b.own_weights, weights));
    exchange.send();
    exchange.receive_headers(parts_.options.tp_size);
    ops.run(FillI32{b.num_rows, static_cast<int32_t>(b.rows.num_rows())}, stream);
    localize(b.ids, b.received_ids, b.num_rows, exchange);
    return {source_of(b.rows), b.ids, b.weights, b.num_rows};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    exchange.transport.swap_blocks(b.returned, partial, exchange.stream);
    exchange.receive_statuses();
    const Tensor return_row = b.return_row.rows(0, own.size);
    exchange.ops.run(BlockRows{return_row, b.own_rows.num_rows()}, exchange.stream);
    slices_.sum_and_gather(exchange, dst, return_row, own, addend);
  }

 private:
  SliceGather slices_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_message_dispatcher(DispatcherParts parts) {
  switch (parts.options.kind) {
    case DispatcherKind::Local: return std::make_unique<LocalDispatcher>(std::move(parts));
    case DispatcherKind::AllGather: return std::make_unique<AllGatherDispatcher>(std::move(parts));
    case DispatcherKind::Normal:
    case DispatcherKind::LowLatency: break;
  }
  if (parts.options.sums_at_source && parts.num_ranks() > 1)
    return std::make_unique<SourceSumsDispatcher>(std::move(parts));
  return std::make_unique<NormalDispatcher>(std::move(parts));
}

}  // namespace switchyard
