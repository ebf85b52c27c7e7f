// src/dispatcher/exchange.h -- the header every dispatch begins with, and the status every combine
// begins with: what makes errors reach every rank or none.
#pragma once

#include "comm/device_ranks.h"
#include "ops/ops.h"
#include "plan/buffers.h"
#include "switchyard/communicator.h"

namespace switchyard {

// One rank's side of the exchanges of one call.
struct Exchange {
  Ops& ops;
  Communicator& communicator;
  DeviceRanks* device_ranks;  // the communicator, where it works on memory of devices; else null
  const DispatchBuffers& buffers;
  Tensor status;
  CUstream_st* stream;

  // Status, max_tokens, T, and `counts` (rows to each rank, may be absent) reach every rank with
  // the next exchange, at once with `send`. Once heard, status holds the same words everywhere.
  void send_header(int64_t max_tokens, int64_t num_tokens, ConstTensor counts) const;
  void receive_headers(int tp_size) const;

  // The same for what went wrong since (an executor's overflow).
  void send_status() const;
  void receive_statuses() const;

  // Communicator::all_gather, of which several are one piece of work for a link: with the next
  // exchange.
  void gather(Tensor dst, ConstTensor src) const;
  void send() const;

  // Communicator::all_to_all_rows.
  void rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
            ConstTensor counts) const;
  // The same for one kind of row, and as many from each rank to each: [P * block, W] both.
  void equal_blocks(Tensor dst, ConstTensor src) const;

  // After the last exchange, and before counts are taken for true: what peers sent means nothing if
  // one was lost meanwhile.
  void note_lost_peers() const;

 private:
  Tensor status_headers() const;  // i32 [P, kStatusWords]
};

}  // namespace switchyard
