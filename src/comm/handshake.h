// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/handshake.h -- what the ranks of any communicator tell each other when they connect, and
// why they were lost. The words are memory of the host.
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/as_error.h"
#include "base/require.h"
#include "switchyard/communicator.h"

namespace switchyard {

// f(); if this rank cannot because its memory ran out, its peers do not wait for it.
template <class F>
decltype(auto) peers_know(Communicator& communicator, F f) {
  return as_errors("communicator", f, [&](const char* why) { communicator.abort(why); });
}

// Collective. all[r] = `mine` of rank r: plain words.
template <class Words>
std::vector<Words> exchange_words(Communicator& communicator, const Words& mine) {
  static_assert(std::is_trivially_copyable_v<Words> && sizeof(Words) % sizeof(int64_t) == 0);
  constexpr int64_t kWords = sizeof(Words) / sizeof(int64_t);
  auto all = peers_know(communicator, [&] { return std::vector<Words>(communicator.size()); });
  communicator.all_gather(Tensor(all.data(), DType::I64, {communicator.size(), kWords}),
                          ConstTensor(&mine, DType::I64, {kWords}), nullptr);
  return all;
}

// Collective: a step that every rank takes, or none. Runs `step`, which may write `mine`, and
// exchanges `mine`; if the step threw on one rank, every rank throws. Handshake::code is that of an
// Error; 0: good. `operation` begins the message.
template <class Handshake, class F>
std::vector<Handshake> agree(const char* operation, Communicator& communicator, Handshake& mine,
                             F step) {
  std::optional<Error> failed;
  try {
    as_errors(operation, step);
  } catch (const Error& e) {
    failed.emplace(e);
    mine.code = static_cast<int64_t>(e.code());
  }
  auto all = exchange_words(communicator, mine);
  if (failed) throw *failed;
  for (size_t r = 0; r < all.size(); ++r)
    if (const auto code = static_cast<Errc>(all[r].code); all[r].code != 0)
      throw Error(code, cat(operation, ": rank ", r, " refused (", errc_name(code),
                            "). See the error thrown there."));
  return all;
}

// Which host and which process a rank lives in, in words that every process can compare.
struct ProcessIdentity {
  std::array<int64_t, 2> host{};  // of this boot of the machine
  int64_t pid = 0;
  int64_t nonce = 0;  // two containers may number their processes alike

  static ProcessIdentity mine();
  bool operator==(const ProcessIdentity&) const = default;
};

// What all_to_all_rows asks of one rank: rows that it sends must exist, and those that reach it must
// fit. `counts` are on the host. width_misfit(i) says what is wrong with the width of transfer i.
// Returns what is wrong; empty: nothing.
template <class F>
std::string misfit_of_rows(int rank, int num_ranks, std::span<const RowTransfer> transfers,
                           ConstTensor send_rows, ConstTensor counts, F width_misfit) {
  int64_t sent = 0, received = 0;
  for (int other = 0; other < num_ranks; ++other) {
    sent += counts.as<int32_t>()[rank * num_ranks + other];
    received += counts.as<int32_t>()[other * num_ranks + rank];
  }
  if (send_rows.present() && send_rows.count() < sent)
    return cat("all_to_all_rows: send_rows=", send_rows.count(), " on rank ", rank, ", counts say ",
               sent, " rows.");
  for (size_t i = 0; i < transfers.size(); ++i) {
    const int64_t room = transfers[i].dst.dim(0), given = transfers[i].src.dim(0);
    if (std::string misfit = width_misfit(i); !misfit.empty()) return misfit;
    if (received > room)
      return cat("all_to_all_rows: rows=", received, " for rank ", rank, ", its buffer holds ",
                 room, ". Use a larger capacity.");
    if (!send_rows.present() && sent > given)
      return cat("all_to_all_rows: rows=", sent, " from rank ", rank, ", its source holds ", given,
                 ".");
    for (int64_t s = 0; send_rows.present() && s < sent; ++s)
      if (const int32_t row = send_rows.as<int32_t>()[s]; row < 0 || row >= given)
        return cat("all_to_all_rows: send_rows[", s, "]=", row, " on rank ", rank,
                   ", its source holds ", given, " rows.");
  }
  return {};
}
// Why the views of a transfer cannot be exchanged, or their bytes not be counted; empty: nothing is
// wrong.
std::string misfit_of_transfer(const char* op, ConstTensor dst, ConstTensor src, int rank);
// What is wrong with the views of one rank's all_to_all_rows, before anything is read of them.
std::string misfit_of_views(int rank, int num_ranks, std::span<const RowTransfer> transfers,
                            ConstTensor send_rows, ConstTensor counts);
// Throws ShapeMismatch unless clocks can count it: 1 ms to a year.
void check_deadline(const char* operation, std::chrono::milliseconds deadline);

inline int64_t row_bytes(ConstTensor t) {
  return t.dim(1) * dtype_bytes(t.dtype);
}
// Error(Transport) with this reason, or that there is no memory for one, as an empty one means.
Error lost_error(const std::string& reason) noexcept;
// `missing`: "1, 3".
std::string absence_message(const char* op, const std::string& missing,
                            std::chrono::milliseconds deadline);

// Collective: whether ranks could reach each other's memory at all.
bool are_on_one_host(Communicator& communicator);

// Why a communicator is over, once a device says that it is. Words in windows are faster than the
// host's: the reason may still be on its way. Empty if none comes within `patience`.
std::string await_reason(const Communicator& communicator, std::chrono::milliseconds patience);

}  // namespace switchyard
