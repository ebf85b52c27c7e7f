// src/strategy/token_pieces.h -- how a call's tokens are cut, so that links and experts work at once.
#pragma once

#include "switchyard/strategy.h"

namespace switchyard {

// Pieces of one call: `count` of at most `tokens` tokens of each rank.
struct TokenPieces {
  int64_t count = 1;
  int64_t tokens = 0;
};

// How many a call at the capacity has, by the cost model unless the request says it. Pure.
int choose_token_pieces(DispatcherKind dispatcher, ExecutorKind executor, GemmProvider provider,
                        const StrategyRequest& request);

// Of a call with `max_tokens`, in a layer whose largest call has `most` pieces of `capacity`: as few
// as there can be of that size, and even ones.
TokenPieces cut_tokens(int64_t max_tokens, int64_t capacity, int most);

}  // namespace switchyard
