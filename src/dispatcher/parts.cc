// src/dispatcher/parts.cc
#include "dispatcher/parts.h"

#include <algorithm>
#include <array>

#include "base/require.h"

namespace switchyard {
namespace {

// chunk = ceil(T / tp); fewer tokens or none at the end.
Dispatcher::Slice slice_of(int64_t num_tokens, int tp_rank, int tp_size) {
  const int64_t chunk = slice_capacity(num_tokens, tp_size);
  const int64_t begin = std::min(chunk * tp_rank, num_tokens);
  return {begin, std::min(chunk, num_tokens - begin)};
}

}  // namespace

void Exchange::send_header(int64_t max_tokens, int64_t num_tokens, ConstTensor counts) const {
  const Tensor& header = buffers.header;
  ops.run(Copy{header.rows(0, kStatusWords), status}, stream);
  ops.run(FillI32{header.rows(kHeaderMaxTokens, 1), static_cast<int32_t>(max_tokens)}, stream);
  ops.run(FillI32{header.rows(kHeaderTokens, 1), static_cast<int32_t>(num_tokens)}, stream);
  const Tensor to_ranks = header.rows(kHeaderCounts, communicator.size());
  if (counts.present())
    ops.run(Copy{to_ranks, counts}, stream);
  else
    ops.run(FillI32{to_ranks, 0}, stream);
  gather(buffers.headers, header);
}

void Exchange::receive_headers(int tp_size) const {
  ops.run(CheckHeaders{status, buffers.headers, tp_size}, stream);
}

void Exchange::send_status() const {
  const Tensor mine = buffers.header.rows(0, kStatusWords);
  ops.run(Copy{mine, status}, stream);
  gather(status_headers(), mine);
}

void Exchange::receive_statuses() const {
  ops.run(MergeStatus{status, status_headers()}, stream);
}

Tensor Exchange::status_headers() const {
  Tensor all = buffers.headers;
  all.shape = {communicator.size(), kStatusWords};
  return all;
}

void Exchange::gather(Tensor dst, ConstTensor src) const {
  if (device_ranks != nullptr)
    device_ranks->gather_along(dst, src, stream);
  else
    communicator.all_gather(dst, src, stream);
}

void Exchange::send() const {
  if (device_ranks != nullptr) device_ranks->exchange(stream);
}

void Exchange::rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                    ConstTensor counts) const {
  if (device_ranks != nullptr) device_ranks->lend(buffers.sent, buffers.arrived);
  communicator.all_to_all_rows(transfers, send_rows, counts, stream);
}

void Exchange::equal_blocks(Tensor dst, ConstTensor src) const {
  if (device_ranks != nullptr) return device_ranks->swap_blocks(dst, src, stream);
  const int64_t block = src.dim(0) / communicator.size();
  ops.run(FillI32{buffers.counts_back, static_cast<int32_t>(block)}, stream);
  const std::array<RowTransfer, 1> transfers{{{dst, src}}};
  communicator.all_to_all_rows(transfers, {}, buffers.counts_back, stream);
}

void Exchange::note_lost_peers() const {
  if (device_ranks != nullptr)
    ops.run(NoteEnded{status, device_ranks->ended(), communicator.rank()}, stream);
}

Dispatcher::Slice DispatcherParts::slice(int64_t num_tokens) const {
  if (options.kind == DispatcherKind::Local) return {0, num_tokens};
  return slice_of(num_tokens, rank() % options.tp_size, options.tp_size);
}

int64_t DispatcherParts::max_rows(int64_t max_tokens) const {
  return received_rows(options.kind, max_tokens, num_ranks(), options.tp_size);
}

size_t DispatcherParts::workspace_bytes(int64_t max_tokens) const {
  return static_cast<size_t>(
      dispatcher_bytes(options.kind, config, max_tokens, num_ranks(), options.tp_size, carrier));
}

DispatchBuffers DispatcherParts::take_buffers(Workspace workspace, int64_t max_tokens) const {
  Arena arena(workspace, backend->kind());
  return DispatchBuffers::take(arena, options.kind, config, max_tokens, num_ranks(),
                               options.tp_size, carrier);
}

void DispatcherParts::check(ConstTensor hidden, ConstTensor ids, ConstTensor weights,
                            int64_t max_tokens, Dispatcher::Slice slice) const {
  SWITCHYARD_REQUIRE(
      hidden.shape.rank() == 2 && hidden.dim(1) == config.hidden && hidden.dtype == DType::Bf16,
      ShapeMismatch, "dispatch: hidden is not bf16 [T, ", config.hidden, "].");
  SWITCHYARD_REQUIRE(hidden.dim(0) <= max_tokens, ShapeMismatch, "dispatch: tokens=", hidden.dim(0),
                     ", at most max_tokens=", max_tokens, ". Raise max_tokens on every rank.");
  const Shape slots{slice.size, config.top_k};
  SWITCHYARD_REQUIRE(ids.shape == slots && ids.dtype == DType::I32, ShapeMismatch,
                     "dispatch: ids is not i32 [", slice.size, ", ", config.top_k, "].");
  SWITCHYARD_REQUIRE(weights.shape == slots && weights.dtype == DType::F32, ShapeMismatch,
                     "dispatch: weights is not f32 [", slice.size, ", ", config.top_k, "].");
}

void DispatcherParts::localize(Tensor dst, ConstTensor src, ConstTensor num_rows, Tensor status,
                               CUstream_st* stream) const {
  ops().run(LocalizeIds{dst, src, num_rows, first_expert(), num_local_experts(), config.num_experts,
                        rank(), status},
            stream);
}

DispatchedCall CommunicatorDispatcher::dispatch(Workspace workspace, ConstTensor hidden,
                                                ConstTensor ids, ConstTensor weights,
                                                int64_t max_tokens, Tensor status,
                                                CUstream_st* stream) {
  const Slice own = slice(hidden.dim(0));
  parts_.check(hidden, ids, weights, max_tokens, own);
  check_stream(stream);
  const auto buffers = parts_.take_buffers(workspace, max_tokens);
  return {.received = send(parts_.exchange(buffers, status, stream),
                           {hidden, ids, weights, max_tokens, own}),
          .num_tokens = hidden.dim(0),
          .max_tokens = max_tokens,
          .workspace = workspace,
          .weights = weights};
}

void CommunicatorDispatcher::combine(Tensor dst, const PartialRows& partial,
                                     const DispatchedCall& call, const Addend& addend,
                                     Tensor status, CUstream_st* stream) {
  if (!partial.rows.present()) {
    if (partial.sums.rows.present())
      parts_.ops().run(gather_rows(dst, partial.sums, call.received, addend), stream);
    return;
  }
  const auto buffers = parts_.take_buffers(call.workspace, call.max_tokens);
  const Exchange exchange = parts_.exchange(buffers, status, stream);
  exchange.send_status();
  send_back(exchange, dst, partial.rows, call, addend);
  exchange.note_lost_peers();
}

SliceGather::SliceGather(const DispatcherParts& parts) {
  if (parts.options.tp_size > 1)
    group_ = parts.communicator.split(parts.rank() / parts.options.tp_size);
}

void SliceGather::sum_and_gather(const Exchange& exchange, Tensor dst, ConstTensor return_row,
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

}  // namespace switchyard
