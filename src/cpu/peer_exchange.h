// src/cpu/peer_exchange.h -- ranks that reach into each other's memory, by addresses of this
// process. Contracts in ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace switchyard::cpu {

void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status);
void await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part, Tensor status);
void fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                ConstTensor row_of_slot, ConstTensor num_rows);
void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status);
void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
               const SlotSums& own, const Addend& addend, ConstTensor status);
void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                 ConstTensor status);

}  // namespace switchyard::cpu
