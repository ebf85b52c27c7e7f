// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/row_carrier.h -- what carries rows from rank to rank: it decides the buffers of a call.
#pragma once

#include "switchyard/strategy.h"

namespace switchyard {

enum class RowCarrier {
  Communicator,  // ranks on CPUs; one rank alone needs none
  PeerPush,      // kernels, into windows that ranks open for each other
  PeerFetch,     // the executor's scatter, out of the window of their source
  NcclBlocks,    // blocks of the call's bound
  NcclExact,     // as many rows as there are; the host reads the counts
};

inline RowCarrier row_carrier(DispatcherKind kind, const StrategyRequest& r, int token_pieces) {
  if (r.device.kind != DeviceKind::Cuda || r.num_ranks == 1) return RowCarrier::Communicator;
  const bool normal = kind == DispatcherKind::Normal;
  if (r.peer_memory) {  // what overlaps with other work is pushed, and what is quantised first
    const bool fetches = r.fetch_rows && token_pieces <= 1 && r.experts == DType::Bf16;
    return normal && fetches ? RowCarrier::PeerFetch : RowCarrier::PeerPush;
  }
  // Only the normal dispatcher's sizes depend on the routing.
  return normal && r.host_counts ? RowCarrier::NcclExact : RowCarrier::NcclBlocks;
}

inline RowCarrier row_carrier(DispatcherKind kind, const StrategyRequest& r) {
  return row_carrier(kind, r, r.token_pieces);
}

inline bool is_peer(RowCarrier carrier) {
  return carrier == RowCarrier::PeerPush || carrier == RowCarrier::PeerFetch;
}
inline bool is_nccl(RowCarrier carrier) {
  return carrier == RowCarrier::NcclBlocks || carrier == RowCarrier::NcclExact;
}

}  // namespace switchyard
