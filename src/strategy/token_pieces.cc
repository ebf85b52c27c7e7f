// src/strategy/token_pieces.cc
#include "strategy/token_pieces.h"

#include <algorithm>

#include "base/checked.h"
#include "strategy/cost_model.h"

namespace switchyard {
namespace {

constexpr int kMostPieces = 4;  // chosen: each saves less than the one before, and costs as much
// What a piece takes beside its rows: kernels that tell and wait, there and back.
constexpr double kPieceUs = 30;
// Rows that travel beside the experts take memory and multiprocessors from them, as long as they
// would take at this rate: 2x H100, 2857 us in two pieces of 8192 tokens, which alone take 1169.
constexpr double kBesideExpertsGbps = 300;

double us_of_pieces(int count, DispatcherKind dispatcher, ExecutorKind executor,
                    GemmProvider provider, const StrategyRequest& r) {
  StrategyRequest piece = r;
  piece.max_tokens = cut_tokens(r.max_tokens, r.max_tokens, count).tokens;
  const Prediction p = predict(dispatcher, executor, provider, piece);
  // The first piece's way there and the last one's way back are not hidden.
  const double beside_us = (count - 1) * p.link_us * r.device.link_gbps / kBesideExpertsGbps;
  return count * (p.compute_us + p.meetings_us) + (count - 1) * kPieceUs + p.link_us + beside_us;
}

}  // namespace

PieceChoice choose_token_pieces(DispatcherKind dispatcher, ExecutorKind executor,
                                GemmProvider provider, const StrategyRequest& r) {
  const auto choice = [&](int count) {
    return PieceChoice{count, us_of_pieces(count, dispatcher, executor, provider, r)};
  };
  if (r.num_ranks == 1 || dispatcher == DispatcherKind::Local || r.tp_size > 1) return choice(1);
  const auto most = static_cast<int>(std::clamp<int64_t>(r.max_tokens, 1, kMaxTokenPieces));
  if (r.token_pieces > 0) return choice(std::min(r.token_pieces, most));
  if (r.device.kind == DeviceKind::Cpu) return choice(1);  // one thing at a time
  PieceChoice best = choice(1);
  for (int count = 2; count <= std::min(kMostPieces, most); ++count)
    if (const PieceChoice c = choice(count); c.us < best.us) best = c;
  return best;
}

TokenPieces cut_tokens(int64_t max_tokens, int64_t capacity, int most) {
  if (max_tokens == 0) return {};
  const int64_t count = ceil_div(max_tokens, ceil_div(capacity, int64_t{most}));
  return {count, ceil_div(max_tokens, count)};
}

}  // namespace switchyard
