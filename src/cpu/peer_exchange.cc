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
                      static_cast<int32_t>(StatusDetail::PeerLost), lost_rank(lost),
                      lost_why(lost)};
}

// The words of `num` ranks from `first` on, unpacked into headers. False: somebody is lost.
bool await(const PeerWindow& w, PeerPhase phase, uint32_t epoch, int first, int num,
           Tensor status) {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::nanoseconds(w.deadline_ns);
  const int64_t width = told_width(phase, w.num_ranks);
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
  t.shape = {num, told_width(phase, w.num_ranks)};
  return t;
}

}  // namespace

void post_counts(const PeerWindow& w, Tensor return_row, ConstTensor ids, PeerRoute route,
                 int64_t num_experts, int64_t max_tokens, int64_t num_tokens, Tensor status) {
  const int64_t num_ranks = w.num_ranks, per_rank = num_experts / num_ranks, top_k = ids.dim(1);
  const auto* id = ids.as<int32_t>();
  for (int64_t s = 0; s < ids.count(); ++s)
    if (!is_valid_id(id[s], num_experts))
      note(words_of(status), Errc::BadRouting, StatusDetail::IdOutOfRange, w.rank, id[s]);

  const auto gets = [&](int64_t t, int64_t p) {
    return route != PeerRoute::Owners ||
           std::any_of(id + t * top_k, id + (t + 1) * top_k, [&](int32_t e) {
             return is_expert(e, num_experts) && owner_of(e, per_rank) == p;
           });
  };
  const uint32_t epoch = epoch_of(w) + 1;
  const int64_t mine = told_at(PeerPhase::Counts, epoch, w.rank, num_ranks);
  const auto tell_all = [&](int64_t i, int64_t value) {
    for (int d = 0; d < num_ranks; ++d)
      tell(control_of(w, d)[mine + i], told_word(epoch, static_cast<int32_t>(value)));
  };
  for (int64_t p = 0; p < num_ranks; ++p) {
    int32_t count = 0;
    for (int64_t t = 0; t < ids.dim(0); ++t)
      return_row.as<int32_t>()[t * num_ranks + p] = gets(t, p) ? count++ : kNoRow;
    const bool sends = words_of(status).good() && route != PeerRoute::Nobody;
    tell_all(kHeaderCounts + p, sends ? count : 0);
  }
  for (int64_t i = 0; i < kStatusWords; ++i) tell_all(i, status.as<int32_t>()[i]);
  tell_all(kHeaderMaxTokens, max_tokens);
  tell_all(kHeaderTokens, num_tokens);
}

void await_counts(const PeerWindow& w, Tensor shift, Tensor num_rows, int tp_size, Tensor status) {
  const int num_ranks = w.num_ranks;
  std::fill_n(shift.as<int32_t>(), num_ranks, 0);
  num_rows.as<int32_t>()[0] = 0;
  const uint32_t epoch = epoch_of(w) + 1;
  const bool all_came = await(w, PeerPhase::Counts, epoch, 0, num_ranks, status);
  w.control.as<int64_t>()[kControlEpoch] = epoch;
  if (!all_came) return;
  check_headers(status, w.headers, tp_size);
  if (!words_of(status).good()) return;
  const auto sent = [&](int s, int d) {
    return w.headers.as<int32_t>()[s * w.headers.dim(1) + kHeaderCounts + d];
  };
  for (int p = 0; p < num_ranks; ++p)
    for (int s = 0; s < w.rank; ++s) shift.as<int32_t>()[p] += sent(s, p);
  for (int s = 0; s < num_ranks; ++s) num_rows.as<int32_t>()[0] += sent(s, w.rank);
}

void push_rows(const PeerWindow& w, const PeerRows& dst, ConstTensor rows, ConstTensor ids,
               ConstTensor weights, ConstTensor return_row, ConstTensor shift,
               int64_t experts_per_rank, ConstTensor status) {
  if (!status.as<StatusWords>()->good()) return;
  const int64_t hidden = rows.dim(1), top_k = ids.dim(1);
  for (int64_t t = 0; t < rows.dim(0); ++t)
    for (int p = 0; p < w.num_ranks; ++p) {
      const int32_t place = return_row.as<int32_t>()[t * w.num_ranks + p];
      if (place == kNoRow) continue;
      const int64_t row = place + shift.as<int32_t>()[p];
      std::memcpy(at_peer(w, p, dst.rows.as<Bf16>()) + row * hidden, rows.as<Bf16>() + t * hidden,
                  static_cast<size_t>(hidden) * sizeof(Bf16));
      std::memcpy(at_peer(w, p, dst.weights.as<float>()) + row * top_k,
                  weights.as<float>() + t * top_k, static_cast<size_t>(top_k) * sizeof(float));
      int32_t* local = at_peer(w, p, dst.ids.as<int32_t>()) + row * top_k;
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t id = ids.as<int32_t>()[t * top_k + k] - p * experts_per_rank;
        local[k] = is_expert(id, experts_per_rank) ? static_cast<int32_t>(id) : kNoExpert;
      }
    }
}

void meet_peers(const PeerWindow& w, PeerPhase phase, PeerMeet part, int first, int num,
                Tensor status) {
  const uint32_t epoch = epoch_of(w);
  const int64_t mine = told_at(phase, epoch, w.rank, w.num_ranks);
  for (int d = first; part != PeerMeet::Wait && d < first + num; ++d)
    for (int64_t i = 0; i < kStatusWords; ++i)
      tell(control_of(w, d)[mine + i], told_word(epoch, status.as<int32_t>()[i]));
  if (part == PeerMeet::Tell) return;
  if (await(w, phase, epoch, first, num, status)) merge_status(status, unpacked(w, phase, num));
}

void pull_sums(const PeerWindow& w, Tensor dst, ConstTensor partial, ConstTensor return_row,
               ConstTensor shift, const Addend& addend, ConstTensor status) {
  if (!status.as<StatusWords>()->good()) return;
  const int64_t hidden = dst.dim(1);
  for (int64_t t = 0; t < dst.dim(0); ++t)
    for (int64_t h = 0; h < hidden; ++h) {
      float sum = 0;
      for (int p = 0; p < w.num_ranks; ++p) {
        const int32_t place = return_row.as<int32_t>()[t * w.num_ranks + p];
        if (place == kNoRow) continue;
        const int64_t row = place + shift.as<int32_t>()[p];
        sum += static_cast<float>(at_peer(w, p, partial.as<Bf16>())[row * hidden + h]);
      }
      if (addend.rows.present()) {
        const float value = addend.rows.as<float>()[t * hidden + h];
        sum += addend.scale.present() ? addend.scale.as<float>()[t] * value : value;
      }
      dst.as<Bf16>()[t * hidden + h] = Bf16(sum);
    }
}

void pull_slices(const PeerWindow& w, Tensor dst, ConstTensor slice, int first, int num,
                 ConstTensor status) {
  if (!status.as<StatusWords>()->good()) return;
  const int64_t chunk = ceil_div(dst.dim(0), num), hidden = dst.dim(1);
  for (int64_t t = 0; t < dst.dim(0); ++t)
    std::memcpy(
        dst.as<Bf16>() + t * hidden,
        at_peer(w, first + static_cast<int>(t / chunk), slice.as<Bf16>()) + t % chunk * hidden,
        static_cast<size_t>(hidden) * sizeof(Bf16));
}

}  // namespace switchyard::cpu
