// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/parts.h -- what every dispatcher is made of, and what two of them share.
#pragma once

#include <memory>

#include "base/backend.h"
#include "comm/row_transport.h"
#include "ops/ops.h"
#include "plan/buffers.h"
#include "switchyard/communicator.h"
#include "switchyard/dispatcher.h"

namespace switchyard {

// Of the tp_rank-th of tp_size ranks that hold the same tokens: chunk = ceil(T / tp); fewer tokens or
// none at the end.
Dispatcher::Slice slice_of(int64_t num_tokens, int tp_rank, int tp_size);

struct DispatcherParts {
  MoeConfig config;
  DispatcherOptions options;
  Communicator& communicator;
  std::shared_ptr<Backend> backend;
  RowCarrier carrier = RowCarrier::Communicator;
  std::shared_ptr<RowTransport> transport{};  // of messages; else absent

  int num_ranks() const { return communicator.size(); }
  int rank() const { return communicator.rank(); }
  Ops& ops() const { return backend->ops(); }

  // All tokens, or this rank's share when consecutive tp_size ranks hold the same ones.
  Dispatcher::Slice slice(int64_t num_tokens) const;
  int64_t max_rows(int64_t max_tokens) const;
  // Hidden states as they travel: in `room`, or as they are.
  ConstRowParts travelling(const RowParts& room, ConstTensor hidden, CUstream_st* stream) const;
  // Refuses what breaks the contract of dispatch, before anything moves.
  void check(ConstTensor hidden, ConstTensor ids, ConstTensor weights, int64_t max_tokens,
             Dispatcher::Slice slice) const;
};

// Over parts.transport.
std::unique_ptr<Dispatcher> make_message_dispatcher(DispatcherParts parts);
// Where ranks reach into each other's memory: any of them, but for that of low latency.
std::unique_ptr<Dispatcher> make_peer_dispatcher(DispatcherParts parts);
std::unique_ptr<Dispatcher> make_low_latency_dispatcher(DispatcherParts parts);

}  // namespace switchyard
