// src/cpu/exchange.cc
#include "cpu/exchange.h"

#include <atomic>

#include "base/buffers.h"
#include "base/status.h"

namespace switchyard::cpu {
namespace {

const StatusWords& status_in(const int32_t* header) {
  return *reinterpret_cast<const StatusWords*>(header);
}

}  // namespace

void merge_status(Tensor status, ConstTensor headers) {
  auto& merged = *status.as<StatusWords>();
  const auto* header = headers.as<int32_t>();
  // Every rank must end with the same words, so what this rank saw itself counts only as its
  // header.
  merged = {};
  for (int64_t r = 0; r < headers.dim(0) && merged.good(); ++r)
    merged = status_in(header + r * headers.dim(1));
}

void block_rows(Tensor dst, int64_t stride) {
  auto* row = dst.as<int32_t>();
  const int64_t num_ranks = dst.dim(1);
  for (int64_t t = 0; t < dst.dim(0); ++t)
    for (int64_t p = 0; p < num_ranks; ++p)
      row[t * num_ranks + p] = static_cast<int32_t>(p * stride + t);
}

void check_headers(Tensor status, ConstTensor headers, int tp_size) {
  merge_status(status, headers);
  auto& merged = *status.as<StatusWords>();
  const int64_t width = headers.dim(1);
  const auto* header = headers.as<int32_t>();
  for (int r = 0; r < headers.dim(0); ++r) {
    const int32_t* mine = header + r * width;
    const int32_t* group = header + int64_t{r / tp_size} * tp_size * width;
    if (mine[kHeaderMaxTokens] != header[kHeaderMaxTokens])
      note(merged, Errc::ShapeMismatch, StatusDetail::MaxTokensDiffer, r, mine[kHeaderMaxTokens]);
    if (mine[kHeaderTokens] != group[kHeaderTokens])
      note(merged, Errc::ShapeMismatch, StatusDetail::SliceTokensDiffer, r, mine[kHeaderTokens]);
  }
}

void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers, int rank,
                 ConstTensor status) {
  const int64_t num_ranks = counts.dim(0), width = headers.dim(1);
  const bool good = status.as<StatusWords>()->good();
  auto* to = counts.as<int32_t>();
  auto* back = counts_back.as<int32_t>();
  int32_t received = 0;
  for (int64_t s = 0; s < num_ranks; ++s) {
    const int32_t* sent = headers.as<int32_t>() + s * width + kHeaderCounts;
    for (int64_t d = 0; d < num_ranks; ++d)
      to[s * num_ranks + d] = back[d * num_ranks + s] = good ? sent[d] : 0;
    received += to[s * num_ranks + rank];
  }
  num_rows.as<int32_t>()[0] = received;
}

void note_ended(Tensor status, const int32_t* ended, int rank) {
  if (std::atomic_ref(*const_cast<int32_t*>(ended)).load(std::memory_order_relaxed) == 0) return;
  auto& words = *status.as<StatusWords>();
  words = {};
  note(words, Errc::Transport, StatusDetail::PeerLost, rank, kGivenUpByHost);
}

}  // namespace switchyard::cpu
