// src/base/row_carrier.h -- what carries rows from rank to rank: it decides the buffers of a call.
#pragma once

#include "switchyard/strategy.h"

namespace switchyard {

enum class RowCarrier {
  Communicator,  // ranks on CPUs; one rank alone needs none
  PeerMemory,    // kernels, in windows that ranks open for each other
  NcclBlocks,    // blocks of the call's bound
  NcclExact,     // as many rows as there are; the host reads the counts
};

inline RowCarrier row_carrier(DispatcherKind kind, DeviceKind device, int num_ranks,
                              bool peer_memory, bool host_counts) {
  if (device != DeviceKind::Cuda || num_ranks == 1) return RowCarrier::Communicator;
  if (peer_memory) return RowCarrier::PeerMemory;
  // Only this dispatcher's sizes depend on the routing.
  return host_counts && kind == DispatcherKind::Normal ? RowCarrier::NcclExact
                                                       : RowCarrier::NcclBlocks;
}

inline RowCarrier row_carrier(DispatcherKind kind, const StrategyRequest& r) {
  return row_carrier(kind, r.device.kind, r.num_ranks, r.peer_memory, r.host_counts);
}

inline bool is_nccl(RowCarrier carrier) {
  return carrier == RowCarrier::NcclBlocks || carrier == RowCarrier::NcclExact;
}

}  // namespace switchyard
