// src/dispatcher/exchange.cc
#include "dispatcher/exchange.h"

#include <array>

namespace switchyard {

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

}  // namespace switchyard
