// src/cpu/peer_exchange.cc -- what reaching into a peer's memory means. Words that ranks tell each
// other are atomic, and everything else is ordered by them.
#include "cpu/peer_exchange.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/checked.h"
#include "base/status.h"
#include "cpu/exchange.h"
#include "cpu/numbers.h"
#include "cpu/row_ops.h"
#include "plan/index.h"

namespace switchyard::cpu {
namespace {

int64_t* control_of(const PeerWindow& w, int rank) {
  return reinterpret_cast<int64_t*>(w.bases.as<int64_t>()[rank]);
}

// Where `mine`, in this rank's window, stands in the window of `rank`.
template <class T>
T* at_peer(const PeerWindow& w, int rank, T* mine) {
  const int64_t offset = reinterpret_cast<int64_t>(mine) - w.bases.as<int64_t>()[w.rank];
  return reinterpret_cast<T*>(w.bases.as<int64_t>()[rank] + offset);
}

void tell(int64_t& word, int64_t value) {
  std::atomic_ref(word).store(value, std::memory_order_release);
}
int64_t told(int64_t& word) {
  return std::atomic_ref(word).load(std::memory_order_acquire);
}

// Tells ranks [first, first + num) the header word(i) of this rank in a call's phase.
template <class Word>
void tell_peers(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
                const Word& word) {
  const int64_t mine = told_at(phase, epoch, w.rank, w.num_ranks);
  for (int d = first; d < first + num; ++d)
    for (int64_t i = 0; i < told_width(phase); ++i)
      tell(control_of(w, d)[mine + i], told_word(epoch, static_cast<int32_t>(word(i))));
}

uint32_t epoch_of(const PeerWindow& w) {
  return static_cast<uint32_t>(w.control.as<int64_t>()[kControlEpoch]);
}

StatusWords& words_of(Tensor status) {
  return *status.as<StatusWords>();
}

// Ends the window for every rank.
void give_up(const PeerWindow& w, int64_t lost, Tensor status) {
  for (int r = 0; r < w.num_ranks; ++r) tell(control_of(w, r)[kControlLost], lost);
  words_of(status) = {static_cast<int32_t>(Errc::Transport),
                      static_cast<int32_t>(StatusDetail::PeerLost), lost_rank(lost), lost_why(lost),
                      0};
}

// The words of `num` ranks from `first` on, unpacked into headers. False: somebody is lost.
bool await(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
           Tensor status) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::nanoseconds(w.deadline_ns);
  const int64_t width = told_width(phase);
  auto* control = w.control.as<int64_t>();
  const auto lost = [&](int rank) -> int64_t {
    if (const int64_t word = told(control[kControlLost]); word != 0) return word;
    if (std::atomic_ref(*w.ended).load(std::memory_order_relaxed) != 0)
      return lost_word(kGivenUpByHost, w.rank);
    if (std::chrono::steady_clock::now() > limit)
      return lost_word(static_cast<int32_t>(phase) + 1, rank);
    return 0;
  };
  if (const int64_t word = told(control[kControlLost]); word != 0)
    return give_up(w, word, status), false;
  for (int r = first; r < first + num; ++r) {
    int64_t* from = control + told_at(phase, epoch, r, w.num_ranks);
    for (int64_t i = 0; i < width; ++i) {
      int64_t word = told(from[i]);
      while (!has_come(word, epoch)) {
        if (const int64_t why = lost(r); why != 0) return give_up(w, why, status), false;
        std::this_thread::yield();
        word = told(from[i]);
      }
      w.headers.as<int32_t>()[(r - first) * width + i] = told_value(word);
    }
  }
  return true;
}

Tensor unpacked(const PeerWindow& w, PeerPhase phase, int num) {
  Tensor t = w.headers;
  t.shape = {num, told_width(phase)};
  return t;
}

}  // namespace

void push_rows(const PeerWindow& w, const PeerPush& push, ConstTensor status) {
  if (!status.as<StatusWords>()->good()) return;
  const int64_t num_ranks = w.num_ranks, per_rank = experts_of_rank(push.num_experts, num_ranks);
  const int64_t num_tokens = push.ids.dim(0), top_k = push.ids.dim(1);
  const bool moves = push.route != PeerRoute::Nobody;
  const int64_t first = moves ? w.rank * push.block : 0;
  const auto* id = push.ids.as<int32_t>();
  auto& bad = w.control.as<uint64_t>()[kControlBadId];
  for (int64_t s = 0; s < push.ids.count(); ++s)
    if (!is_valid_id(id[s], push.num_experts)) bad = std::max(bad, bad_id_word(s, id[s]));

  const auto copy = [](auto* dst, const auto* src, int64_t count) {
    std::memcpy(dst, src, static_cast<size_t>(count) * sizeof(*dst));
  };
  for (int p = 0; p < num_ranks; ++p) {
    const auto local = [&](int32_t e) {
      const int64_t i = e - p * per_rank;
      return is_expert(i, per_rank) ? static_cast<int32_t>(i) : kNoExpert;
    };
    const auto owns = [&](int64_t t) {
      return std::any_of(id + t * top_k, id + (t + 1) * top_k,
                         [&](int32_t e) { return local(e) != kNoExpert; });
    };
    for (int64_t t = 0; t < num_tokens; ++t)
      push.return_row.as<int32_t>()[t * num_ranks + p] =
          owns(t) ? static_cast<int32_t>(first + t) : kNoRow;
    if (!moves && p != w.rank) continue;
    int32_t* ids = at_peer(w, p, push.dst_ids.as<int32_t>()) + first * top_k;
    std::transform(id, id + push.ids.count(), ids, local);
    std::fill(ids + push.ids.count(), ids + push.block * top_k, kNoExpert);
    if (!moves) continue;
    copy(at_peer(w, p, push.dst_weights.as<float>()) + first * top_k, push.weights.as<float>(),
         push.weights.count());
    const int64_t hidden = push.rows.dim(1);
    if (push.route == PeerRoute::Offered) {
      if (p == w.rank && !push.stand_there())
        copy(push.dst_rows.as<Bf16>(), push.rows.as<Bf16>(), push.rows.count());
      continue;
    }
    for (int64_t t = 0; t < num_tokens; ++t)
      if (push.route == PeerRoute::Everyone || owns(t))
        copy(at_peer(w, p, push.dst_rows.as<Bf16>()) + (first + t) * hidden,
             push.rows.as<Bf16>() + t * hidden, hidden);
  }
}

void await_rows(const PeerWindow& w, const PeerArrival& arrival, PeerMeet part, Tensor status) {
  const int num_ranks = w.num_ranks;
  const uint32_t epoch = epoch_of(w) + 1;
  if (part != PeerMeet::Wait) {
    auto& bad = w.control.as<uint64_t>()[kControlBadId];
    if (bad != 0)
      note(words_of(status), Errc::BadRouting, StatusDetail::IdOutOfRange, w.rank,
           static_cast<int32_t>(bad));
    bad = 0;
    tell_peers(w, PeerPhase::Rows, epoch, 0, num_ranks, [&](int64_t i) -> int64_t {
      return i == kHeaderMaxTokens ? arrival.max_tokens
             : i == kHeaderTokens  ? arrival.num_tokens
                                   : status.as<int32_t>()[i];
    });
  }
  if (part == PeerMeet::Tell) return;
  const bool all_came = await(w, PeerPhase::Rows, epoch, 0, num_ranks, status);
  w.control.as<int64_t>()[kControlEpoch] = epoch;
  if (all_came) check_headers(status, w.headers, arrival.tp_size);
  arrival.num_rows.as<int32_t>()[0] =
      words_of(status).good() ? static_cast<int32_t>(arrival.rows) : 0;
}

void fetch_rows(const PeerWindow& w, Tensor dst, ConstTensor rows, int64_t block,
                ConstTensor row_of_slot, ConstTensor num_rows) {
  const int64_t top_k = row_of_slot.dim(1), hidden = rows.dim(1);
  for (int64_t s = 0; s < num_rows.as<int32_t>()[0] * top_k; ++s)
    if (const int64_t row = row_of_slot.as<int32_t>()[s], r = s / top_k; row != kNoRow)
      std::memcpy(dst.as<Bf16>() + row * hidden,
                  at_peer(w, static_cast<int>(r / block), rows.as<Bf16>()) + r % block * hidden,
                  static_cast<size_t>(hidden) * sizeof(Bf16));
}

void meet_peers(const PeerWindow& w, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status) {
  const uint32_t epoch = epoch_of(w);
  if (part != PeerMeet::Wait)
    tell_peers(w, phase, epoch, first, num, [&](int64_t i) { return status.as<int32_t>()[i]; });
  if (part == PeerMeet::Tell) return;
  if (await(w, phase, epoch, first, num, status)) merge_status(status, unpacked(w, phase, num));
}

void pull_sums(const PeerWindow& w, Tensor dst, ConstTensor partial, ConstTensor return_row,
               const SlotSums& own, const Addend& addend, ConstTensor status) {
  if (!status.as<StatusWords>()->good()) return;
  const int64_t hidden = dst.dim(1);
  const auto term = [&](int p, int64_t t, int64_t row, int64_t h) {
    if (p == w.rank && own.rows.present()) return Bf16(sum_of(own, t, h));
    return at_peer(w, p, partial.as<Bf16>())[row * hidden + h];
  };
  for (int64_t t = 0; t < dst.dim(0); ++t)
    for (int64_t h = 0; h < hidden; ++h) {
      float sum = 0;
      for (int p = 0; p < w.num_ranks; ++p) {
        const int64_t row = return_row.as<int32_t>()[t * w.num_ranks + p];
        if (row == kNoRow) continue;
        sum += static_cast<float>(term(p, t, row, h));
      }
      if (addend.rows.present()) {
        const float value = addend.rows.as<float>()[t * hidden + h];
        sum += addend.scale.present() ? addend.scale.as<float>()[t] * value : value;
      }
      store_number(dst, t * hidden + h, sum);
    }
}

void pull_slices(const PeerWindow& w, Tensor dst, ConstTensor slice, int first, int num,
                 ConstTensor status) {
  if (!status.as<StatusWords>()->good()) return;
  const int64_t chunk = ceil_div(dst.dim(0), num);
  const int64_t row_bytes = dst.dim(1) * dtype_bytes(dst.dtype);
  for (int64_t t = 0; t < dst.dim(0); ++t)
    std::memcpy(dst.as<std::byte>() + t * row_bytes,
                at_peer(w, first + static_cast<int>(t / chunk), slice.as<std::byte>()) +
                    t % chunk * row_bytes,
                static_cast<size_t>(row_bytes));
}

}  // namespace switchyard::cpu
