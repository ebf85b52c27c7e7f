// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/communicator.cc -- the dispatchers over a communicator: every exchange is a call of
// it, and the host knows the sizes or gives their bound.
#include <array>

#include "dispatcher/parts.h"

namespace switchyard {
namespace {

// The header every dispatch begins with, and the status every combine begins with: what makes errors
// reach every rank or none. One rank's side of the exchanges of one call.
struct Exchange {
  Ops& ops;
  Communicator& communicator;
  DeviceRanks* device_ranks;  // the communicator, where it works on memory of devices; else null
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
    const Tensor to_ranks = header.rows(kHeaderCounts, communicator.size());
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

  // Communicator::all_gather, of which several are one piece of work for a link: with the next
  // exchange.
  void gather(Tensor dst, ConstTensor src) const {
    if (device_ranks != nullptr)
      device_ranks->gather_along(dst, src, stream);
    else
      communicator.all_gather(dst, src, stream);
  }
  void send() const {
    if (device_ranks != nullptr) device_ranks->exchange(stream);
  }

  // Communicator::all_to_all_rows.
  void rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
            ConstTensor counts) const {
    if (device_ranks != nullptr) device_ranks->lend(buffers.sent, buffers.arrived);
    communicator.all_to_all_rows(transfers, send_rows, counts, stream);
  }
  // The same for one kind of row, and as many from each rank to each: [P * block, W] both.
  void equal_blocks(Tensor dst, ConstTensor src) const {
    if (device_ranks != nullptr) return device_ranks->swap_blocks(dst, src, stream);
    const int64_t block = src.dim(0) / communicator.size();
    ops.run(FillI32{buffers.counts_back, static_cast<int32_t>(block)}, stream);
    const std::array<RowTransfer, 1> transfers{{{dst, src}}};
    communicator.all_to_all_rows(transfers, {}, buffers.counts_back, stream);
  }

  // After the last exchange, and before counts are taken for true: what peers sent means nothing if
  // one was lost meanwhile.
  void note_lost_peers() const {
    if (device_ranks != nullptr)
      ops.run(NoteEnded{status, device_ranks->ended(), communicator.rank()}, stream);
  }

 private:
  // i32 [P, kStatusWords]
  Tensor status_headers() const {
    Tensor all = buffers.headers;
    all.shape = {communicator.size(), kStatusWords};
    return all;
  }
};

// What goes into a dispatch.
struct DispatchInput {
  ConstTensor hidden, ids, weights;
  int64_t max_tokens;
  Dispatcher::Slice own;
};

// What the dispatchers over a communicator have in common: how their calls begin and end.
class CommunicatorDispatcher : public Dispatcher {
 public:
  explicit CommunicatorDispatcher(DispatcherParts parts) : parts_(std::move(parts)) {}

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
            .weights = weights};
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
    back.note_lost_peers();
  }

  int64_t max_rows(int64_t max_tokens) const override { return parts_.max_rows(max_tokens); }
  size_t workspace_bytes(int64_t max_tokens) const override {
    return static_cast<size_t>(dispatcher_bytes(kind(), parts_.config, max_tokens,
                                                parts_.num_ranks(), parts_.options.tp_size,
                                                parts_.carrier));
  }
  Slice slice(int64_t num_tokens) const override { return parts_.slice(num_tokens); }
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                          CUstream_st* stream) override {
    if (sums.rows.present()) parts_.ops().run(gather_rows(room, sums, call.received), stream);
    return {room, sums};
  }
  void check_stream(CUstream_st* stream) const override {
    if (parts_.device_ranks) parts_.device_ranks->check_stream(stream);
  }
  void before_wait(CUstream_st* stream) override {
    if (parts_.device_ranks) parts_.device_ranks->expect(stream);
  }
  std::string why_lost() override {
    return parts_.device_ranks ? parts_.device_ranks->find_missing_ranks() : "";
  }

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

  DispatcherParts parts_;

 private:
  Exchange exchange(const DispatchBuffers& buffers, Tensor status, CUstream_st* stream) const {
    return {parts_.ops(), parts_.communicator,      parts_.device_ranks.get(),
            buffers,      parts_.options.placement, status,
            stream};
  }
  DispatchBuffers take_buffers(Workspace workspace, int64_t max_tokens) const {
    Arena arena(workspace, parts_.backend->kind());
    const auto buffers =
        DispatchBuffers::take(arena, kind(), parts_.config, max_tokens, parts_.num_ranks(),
                              parts_.options.tp_size, parts_.carrier);
    arena.require_memory("dispatch");
    return buffers;
  }
};

// A slice's output rows -> all T rows on every rank of the tensor-parallel group.
class SliceGather {
 public:
  // Collective when tp_size > 1.
  explicit SliceGather(const DispatcherParts& parts) {
    if (parts.options.tp_size > 1)
      group_ = parts.communicator.split(parts.rank() / parts.options.tp_size);
  }

  // Sums the returned partial rows of this rank's slice, and fills dst from every rank's.
  void sum_and_gather(const Exchange& exchange, Tensor dst, ConstTensor return_row,
                      Dispatcher::Slice own, const Addend& addend) const {
    const DispatchBuffers& b = exchange.buffers;
    const Tensor target = group_ ? b.output_slice.rows(0, own.size) : dst;
    exchange.ops.run(sum_partials(target, b.returned, return_row, addend), exchange.stream);
    if (!group_) return;
    // Slices travel at their capacity, so that sizes depend on the call's bound only; what pads them
    // is cut here.
    group_->all_gather(b.output_slices, b.output_slice, exchange.stream);
    const int64_t capacity = b.output_slice.dim(0);
    for (int r = 0; r < group_->size(); ++r) {
      const auto slice = slice_of(dst.dim(0), r, group_->size());
      exchange.ops.run(
          Copy{dst.rows(slice.begin, slice.size), b.output_slices.rows(r * capacity, slice.size)},
          exchange.stream);
    }
  }

 private:
  std::unique_ptr<Communicator> group_;  // null when tp_size == 1
};

// Nothing moves on the way in. One rank: the executor's rows are final.
// tp = P: every rank holds all tokens, runs its own experts, and partial rows are summed at the
// end.
class LocalDispatcher final : public CommunicatorDispatcher {
 public:
  using CommunicatorDispatcher::CommunicatorDispatcher;

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
    return CommunicatorDispatcher::sum_experts(sums, call, room, stream);
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
class NormalDispatcher final : public CommunicatorDispatcher {
 public:
  explicit NormalDispatcher(DispatcherParts parts)
      : CommunicatorDispatcher(std::move(parts)), slices_(parts_) {}

  DispatcherKind kind() const override { return DispatcherKind::Normal; }

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
    exchange.note_lost_peers();
    exchange.ops.run(
        ReadCounts{b.counts, b.counts_back, b.num_rows, b.headers, parts_.rank(), exchange.status},
        exchange.stream);

    const std::array<RowTransfer, 3> transfers{{{b.rows, in.hidden.rows(in.own.begin, in.own.size)},
                                                {b.received_ids, in.ids},
                                                {b.weights, in.weights}}};
    exchange.rows(transfers, b.send_rows, b.counts);
    localize(b.ids, b.received_ids, b.num_rows, exchange);
    return {{b.rows}, b.ids, b.weights, b.num_rows};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    const std::array<RowTransfer, 1> transfers{{{b.returned, partial}}};
    exchange.rows(transfers, {}, b.counts_back);
    exchange.receive_statuses();
    slices_.sum_and_gather(exchange, dst, b.return_row.rows(0, own.size), own, addend);
  }

 private:
  SliceGather slices_;
};

// Every rank's slice, padded to the call's bound, to every rank;
// equal blocks of partial rows back, summed in fp32 in rank order (a reduce-scatter that rounds
// once). The honest baseline: sizes never depend on the routing.
class AllGatherDispatcher final : public CommunicatorDispatcher {
 public:
  explicit AllGatherDispatcher(DispatcherParts parts)
      : CommunicatorDispatcher(std::move(parts)), slices_(parts_) {}

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
      ops.run(Copy{block.rows(0, rows.dim(0)), rows}, stream);
      return block;
    };
    if (own.size < b.own_ids.dim(0)) ops.run(FillI32{b.own_ids, kNoExpert}, stream);
    exchange.gather(b.received_ids, padded(b.own_ids, ids));
    exchange.gather(b.rows, padded(b.own_rows, hidden.rows(own.begin, own.size)));
    exchange.gather(b.weights, padded(b.own_weights, weights));
    exchange.send();
    exchange.receive_headers(parts_.options.tp_size);
    ops.run(FillI32{b.num_rows, static_cast<int32_t>(b.rows.dim(0))}, stream);
    localize(b.ids, b.received_ids, b.num_rows, exchange);
    return {{b.rows}, b.ids, b.weights, b.num_rows};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    exchange.equal_blocks(b.returned, partial);
    exchange.receive_statuses();
    const Tensor return_row = b.return_row.rows(0, own.size);
    exchange.ops.run(BlockRows{return_row, b.own_rows.dim(0)}, exchange.stream);
    slices_.sum_and_gather(exchange, dst, return_row, own, addend);
  }

 private:
  SliceGather slices_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_communicator_dispatcher(DispatcherParts parts) {
  switch (parts.options.kind) {
    case DispatcherKind::Local: return std::make_unique<LocalDispatcher>(std::move(parts));
    case DispatcherKind::AllGather: return std::make_unique<AllGatherDispatcher>(std::move(parts));
    case DispatcherKind::Normal:
    case DispatcherKind::LowLatency: break;  // LowLatency was refused before
  }
  return std::make_unique<NormalDispatcher>(std::move(parts));
}

}  // namespace switchyard
