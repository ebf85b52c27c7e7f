// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/handshake.cc
#include "comm/handshake.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/shape_text.h"
#include "comm/nonce.h"

namespace switchyard {
namespace {

// The kernel draws it anew at every boot; without one, the host's name has to do.
std::array<int64_t, 2> host_words() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  std::erase(text, '-');
  std::array<int64_t, 2> words{};
  if (text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos) {
    for (size_t i = 0; i < 2; ++i) {
      uint64_t word = 0;
      std::from_chars(text.data() + 16 * i, text.data() + 16 * (i + 1), word, 16);
      words[i] = static_cast<int64_t>(word);
    }
    return words;
  }
  char name[sizeof words] = {};
  (void)gethostname(name, sizeof name - 1);
  std::memcpy(words.data(), name, sizeof words);
  return words;
}

std::string misfit_of_view(const char* op, const char* name, ConstTensor view, int rank) {
  const auto wrong = [&](const auto&... what) {
    return cat(op, ": ", name, what..., " on rank ", rank, ". Pass a view of memory of the host.");
  };
  constexpr int64_t kMost = int64_t{1} << 50;  // more than any host has; times 4096 ranks 62 bits
  if (view.dtype > DType::F8E4m3)
    return wrong(" dtype=", static_cast<int>(view.dtype), ", none of DType,");
  int64_t bytes = dtype_bytes(view.dtype);
  for (int i = 0; i < view.shape.rank(); ++i) {
    const int64_t extent = view.dim(i);
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes) || bytes > kMost)
      return wrong("=", shape_text(view.shape), ", need extents of 0 to ", kMost, " bytes in all,");
  }
  if (view.device != DeviceKind::Cpu) return wrong(" is on ", device_name(view.device));
  if (view.bytes() > 0 && view.data == nullptr) return wrong(" is null");
  return {};
}

}  // namespace

ProcessIdentity ProcessIdentity::mine() {
  static const auto here = host_words();
  static const auto nonce = static_cast<int64_t>(draw_nonce());  // a forked child has another pid
  return {here, getpid(), nonce};
}

bool are_on_one_host(Communicator& communicator) {
  if (communicator.size() == 1 || communicator.shares_process()) return true;
  const auto mine = ProcessIdentity::mine().host;
  return std::ranges::count(exchange_words(communicator, mine), mine) == communicator.size();
}

std::string misfit_of_transfer(const char* op, ConstTensor dst, ConstTensor src, int rank) {
  std::string misfit = misfit_of_view(op, "dst", dst, rank);
  return misfit.empty() ? misfit_of_view(op, "src", src, rank) : misfit;
}

std::string misfit_of_views(int rank, int num_ranks, std::span<const RowTransfer> transfers,
                            ConstTensor send_rows, ConstTensor counts) {
  constexpr const char* kOp = "all_to_all_rows";
  const auto misfit_of_indices = [&](const char* name, ConstTensor view) {
    std::string misfit = misfit_of_view(kOp, name, view, rank);
    if (!misfit.empty()) return misfit;
    const bool aligned = reinterpret_cast<uintptr_t>(view.data) % sizeof(int32_t) == 0;
    if (view.dtype == DType::I32 && aligned) return misfit;
    return cat(kOp, ": ", name, " is not i32 at a multiple of 4 bytes on rank ", rank,
               ". Pass aligned i32.");
  };
  if (std::string misfit = misfit_of_indices("counts", counts); !misfit.empty()) return misfit;
  if (counts.count() != int64_t{num_ranks} * num_ranks)
    return cat(kOp, ": counts=", counts.count(), " on rank ", rank, ", need ",
               num_ranks * num_ranks, ".");
  if (send_rows.present())
    if (std::string misfit = misfit_of_indices("send_rows", send_rows); !misfit.empty())
      return misfit;
  for (const auto& [dst, src] : transfers)
    if (std::string misfit = misfit_of_transfer(kOp, dst, src, rank); !misfit.empty())
      return misfit;
  return {};
}

void check_deadline(const char* operation, std::chrono::milliseconds deadline) {
  constexpr std::chrono::milliseconds kLongest = std::chrono::hours(24 * 365);
  SWITCHYARD_REQUIRE(deadline.count() > 0 && deadline <= kLongest, ShapeMismatch, operation,
                     ": deadline=", deadline.count(), " ms, need 1 to ", kLongest.count(),
                     " (a year). The default is 30000.");
}

namespace {
const Error kLostWithoutWords(Errc::Transport,
                              "communicator: it is over, and no memory is left to say why.");
}  // namespace

Error lost_error(const std::string& reason) noexcept {
  try {
    if (!reason.empty()) return {Errc::Transport, reason};
  } catch (const std::bad_alloc&) {
  }
  return kLostWithoutWords;
}

std::string absence_message(const char* op, const std::string& missing,
                            std::chrono::milliseconds deadline) {
  return cat(
      op, ": rank ", missing, " did not come within ", deadline.count(),
      " ms, the deadline of this communicator. Look at that rank, then make a new communicator.");
}

void meet(Communicator& communicator) {
  const int32_t here = 1;
  auto all = peers_know(communicator, [&] { return std::vector<int32_t>(communicator.size()); });
  communicator.all_gather(Tensor(all.data(), {communicator.size()}), ConstTensor(&here, {1}),
                          nullptr);
}

std::string await_reason(const Communicator& communicator, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    std::string reason = communicator.failure_reason();
    if (!reason.empty() || std::chrono::steady_clock::now() >= end) return reason;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace switchyard
