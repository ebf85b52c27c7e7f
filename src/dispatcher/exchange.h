// src/dispatcher/exchange.h -- the header every dispatch begins with, and the status every combine
// begins with: what makes errors reach every rank or none.
#pragma once

#include "base/buffers.h"
#include "ops/ops.h"
#include "switchyard/communicator.h"

namespace switchyard {

// One rank's side of the exchanges of one call.
struct Exchange {
  Ops& ops;
  Communicator& communicator;
  const DispatchBuffers& buffers;
  Tensor status;
  CUstream_st* stream;

  // Status, max_tokens, T, and `counts` (rows to each rank, may be absent) of every rank reach
  // every rank; status then holds the same words everywhere.
  void headers(int64_t max_tokens, int64_t num_tokens, ConstTensor counts, int tp_size) const;

  // What went wrong since (an executor's overflow) reaches every rank.
  void statuses() const;
};

}  // namespace switchyard
