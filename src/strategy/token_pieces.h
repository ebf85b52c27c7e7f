// src/strategy/token_pieces.h -- how a call's tokens are cut, so that links and experts work at
// once.
#pragma once

#include "switchyard/strategy.h"

namespace switchyard {

inline constexpr int kMaxTokenPieces = 16;  // each has a window of its own

struct PieceChoice {
  int count = 1;
  double us = 0;  // predicted
};

// Pieces of a call at the capacity: by the cost model, unless the request says how many. Pure.
PieceChoice choose_token_pieces(DispatcherKind dispatcher, ExecutorKind executor,
                                GemmProvider provider, const StrategyRequest& request);

// Pieces of one call: `count` of at most `tokens` tokens of each rank.
struct TokenPieces {
  int64_t count = 1;
  int64_t tokens = 0;
};

// Of a call with `max_tokens` in a layer whose largest one, `capacity`, has `most`: as few as there
// can be that are no larger than those, and even ones.
TokenPieces cut_tokens(int64_t max_tokens, int64_t capacity, int most);

}  // namespace switchyard
