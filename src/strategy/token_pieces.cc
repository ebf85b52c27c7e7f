// src/strategy/token_pieces.cc
#include "strategy/token_pieces.h"

#include <algorithm>

#include "base/checked.h"
#include "strategy/cost_model.h"

namespace switchyard {
namespace {

constexpr int kMostPieces = 4;  // chosen: each more saves less than the one before, and costs more
// What a piece takes beside its rows: kernels that tell and wait, there and back.
constexpr double kPieceUs = 30;

}  // namespace

int choose_token_pieces(DispatcherKind dispatcher, ExecutorKind executor, GemmProvider provider,
                        const StrategyRequest& r) {
  if (r.num_ranks == 1 || dispatcher == DispatcherKind::Local || r.tp_size > 1) return 1;
  if (r.token_pieces > 0)
    return static_cast<int>(std::clamp<int64_t>(r.token_pieces, 1, std::max<int64_t>(1, r.max_tokens)));
  if (r.device.kind == DeviceKind::Cpu) return 1;  // one thing at a time
  int best = 1;
  double best_us = predict(dispatcher, executor, provider, r).us();
  for (int count = 2; count <= kMostPieces && count <= r.max_tokens; ++count) {
    StrategyRequest piece = r;
    piece.max_tokens = cut_tokens(r.max_tokens, r.max_tokens, count).tokens;
    const Prediction p = predict(dispatcher, executor, provider, piece);
    // The first piece's way there and the last one's way back are not hidden.
    const double us = count * (p.compute_us + kPieceUs) + p.link_us;
    if (us < best_us) best = count, best_us = us;
  }
  return best;
}

TokenPieces cut_tokens(int64_t max_tokens, int64_t capacity, int most) {
  if (max_tokens == 0) return {};
  const int64_t count = ceil_div(max_tokens, ceil_div(capacity, int64_t{most}));
  return {count, ceil_div(max_tokens, count)};
}

}  // namespace switchyard
