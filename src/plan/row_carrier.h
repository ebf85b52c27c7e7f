// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/row_carrier.h -- what carries rows from rank to rank, and as what they travel.
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

// What rows travel as.
inline DType travelling_dtype(DispatcherKind kind, const StrategyRequest& r) {
  const bool travel = kind != DispatcherKind::Local && r.num_ranks > 1;
  return travel && r.fp8_rows ? r.experts : DType::Bf16;
}

inline RowCarrier row_carrier(DispatcherKind kind, const StrategyRequest& r, int token_pieces) {
  if (r.num_ranks == 1) return RowCarrier::Communicator;
  // Messages know no rank that is missing.
  const bool outlives_ranks =
      kind == DispatcherKind::LowLatency && r.lost_rank_timeout.count() > 0 && r.peer_memory;
  if (r.device.kind != DeviceKind::Cuda && !outlives_ranks) return RowCarrier::Communicator;
  const bool normal = kind == DispatcherKind::Normal;
  if (r.peer_memory) {  // what overlaps with other work is pushed, and what arrives to be quantised
    const bool fetches =
        r.fetch_rows && token_pieces <= 1 && travelling_dtype(kind, r) == r.experts;
    return normal && fetches ? RowCarrier::PeerFetch : RowCarrier::PeerPush;
  }
  // Only the normal dispatcher's sizes depend on the routing.
  return normal && r.host_counts ? RowCarrier::NcclExact : RowCarrier::NcclBlocks;
}

inline RowCarrier row_carrier(DispatcherKind kind, const StrategyRequest& r) {
  return row_carrier(kind, r, r.token_pieces);
}

// By what, and as what: it decides the buffers of a call.
struct RowTravel {
  RowCarrier carrier = RowCarrier::Communicator;
  DType rows = DType::Bf16;
};
inline RowTravel row_travel(DispatcherKind kind, const StrategyRequest& r, int token_pieces) {
  return {row_carrier(kind, r, token_pieces), travelling_dtype(kind, r)};
}

inline bool is_peer(RowCarrier carrier) {
  return carrier == RowCarrier::PeerPush || carrier == RowCarrier::PeerFetch;
}
inline bool is_nccl(RowCarrier carrier) {
  return carrier == RowCarrier::NcclBlocks || carrier == RowCarrier::NcclExact;
}

}  // namespace switchyard
