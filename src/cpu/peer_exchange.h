// src/cpu/peer_exchange.h -- ranks that reach into each other's memory, by addresses of this
// process. Contracts in ops/ops.h.
#pragma once

#include "ops/ops.h"

namespace switchyard::cpu {

void post_counts(const PeerWindow& window, Tensor return_row, ConstTensor ids, PeerRoute route,
                 int64_t num_experts, int64_t max_tokens, int64_t num_tokens, Tensor status);
void await_counts(const PeerWindow& window, Tensor shift, Tensor num_rows, int tp_size,
                  Tensor status);
void push_rows(const PeerWindow& window, const PeerRows& dst, ConstTensor rows, ConstTensor ids,
               ConstTensor weights, ConstTensor return_row, ConstTensor shift,
               int64_t experts_per_rank, ConstTensor status);
void meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status);
void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
               ConstTensor shift, const Addend& addend, ConstTensor status);
void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                 ConstTensor status);

}  // namespace switchyard::cpu
