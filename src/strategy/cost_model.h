// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/cost_model.h -- what a strategy is predicted to take, from sizes and the device's
// rates.
#pragma once

#include "strategy/names.h"

namespace switchyard {

// What the experts of one rank have to do in a call.
struct LocalWork {
  double slots = 0;             // of its experts
  double rows = 0;              // received: a token's row once
  double active_experts = 0;    // those with a slot
  DType experts = DType::Bf16;  // what their weights are
};

// What bounds that, each alone.
struct LocalTime {
  double launches_us = 0;   // beside everything else
  double flops_us = 0;      // of the slots
  double weights_us = 0;    // reading every active expert
  double rows_us = 0;       // scatter and gather
  bool both_count = false;  // neither flops nor reads hide the other

  double us() const;
};

// Plan of the rows, GEMMs and row moves of one rank, links left out. Pure.
LocalTime predict_local(const LocalWork& work, const MoeConfig& config, GemmProvider provider,
                        const DeviceDescription& device);

// Microseconds of one call whose tokens stay in one piece.
struct Prediction {
  double compute_us = 0;
  double meetings_us = 0;  // what ranks tell each other, beyond kernels of their own
  double link_us = 0;      // rows there and back
  double us() const { return compute_us + meetings_us + link_us; }
};

// At the request's capacity, an even gate assumed. Pure.
Prediction predict(const Combination& c, const StrategyRequest& request);

// ---- how a call's tokens are cut, so that links and experts work at once

inline constexpr int kMaxTokenPieces = 16;  // each has a window of its own

struct PieceChoice {
  int count = 1;
  double us = 0;  // predicted
};

// Pieces of a call at the capacity: by the cost model, unless the request says how many. Pure.
PieceChoice choose_token_pieces(const Combination& c, const StrategyRequest& request);

// Pieces of one call: `count` of at most `tokens` tokens of each rank.
struct TokenPieces {
  int64_t count = 1;
  int64_t tokens = 0;
};

// Of a call with `max_tokens` in a layer whose largest one, `capacity`, has `most`: as few as there
// can be that are no larger than those, and even ones.
TokenPieces cut_tokens(int64_t max_tokens, int64_t capacity, int most);

}  // namespace switchyard
