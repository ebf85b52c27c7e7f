// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/peer_bytes.h -- a rank whose peers send anything: it throws, or it has what was agreed;
// nothing outside its buffers is written, and no size is taken from them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "comm/byte_transport.h"
#include "comm/rendezvous.h"
#include "switchyard/error.h"

namespace switchyard::fuzz {

// The one peer of rank 0 of two: what it sends comes in pieces, then it leaves.
class ScriptedPeer final : public ByteTransport {
 public:
  explicit ScriptedPeer(std::span<const std::byte> script) : script_(script) {}

  int rank() const override { return 0; }
  int size() const override { return 2; }
  const char* name() const override { return "test"; }
  int64_t send(int, std::span<const std::byte> bytes) override {
    return static_cast<int64_t>(bytes.size());
  }
  int64_t receive(int, std::span<std::byte> bytes) override {
    constexpr size_t kPiece = 13;
    const size_t num = std::min({bytes.size(), script_.size(), kPiece});
    if (num == 0) return kLeft;
    std::ranges::copy(script_.first(num), bytes.begin());
    script_ = script_.subspan(num);
    return static_cast<int64_t>(num);
  }
  void wait(std::span<const Wanted>, std::chrono::milliseconds) override {}
  void notify(const std::string&) noexcept override {}
  std::optional<Notice> notice() override { return {}; }

 private:
  std::span<const std::byte> script_;
};

// Words between others that nothing may change.
struct Guarded {
  static constexpr int32_t kGuard = 0x5a5a5a5a;
  std::array<int32_t, 24> words;
  Guarded() { words.fill(kGuard); }
  int32_t* data() { return words.data() + 8; }
  void check() const {
    for (size_t i = 0; i < words.size(); ++i)
      if ((i < 8 || i >= 16) && words[i] != kGuard) std::abort();
  }
};

// Every operation, until one throws. Returns how many did not.
inline int run_operations(std::span<const std::byte> script) {
  int num_done = 0;
  try {
    const auto comm =
        make_transport_comm(std::make_unique<ScriptedPeer>(script), std::chrono::seconds(1));
    const std::array<int32_t, 2> mine{1, 2};
    Guarded gathered, rows;
    comm->all_gather(Tensor(gathered.data(), {2, 2}), ConstTensor(mine.data(), {2}), nullptr);
    gathered.check();
    ++num_done;
    const std::array<int32_t, 4> counts{1, 1, 3, 0};
    const RowTransfer transfer[] = {
        {Tensor(rows.data(), {4, 2}), ConstTensor(gathered.data(), {2, 2})}};
    comm->all_to_all_rows(transfer, {}, ConstTensor(counts.data(), {2, 2}), nullptr);
    rows.check();
    ++num_done;
    comm->split(3);
    ++num_done;
  } catch (const Error&) {
  }
  return num_done;
}

// A stranger at the listener of rank 0 of two, which it waits at for a moment.
inline void visit(std::span<const std::byte> script) {
  try {
    const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    Listener listener = listen_at("127.0.0.1", 0, soon);
    std::string why;
    const Socket stranger = try_connect("127.0.0.1", listener.port, soon, why);
    if (stranger.open()) send_all(stranger, script, soon, "rank 0");
    Reception reception(std::move(listener), {0, 2, "job", "secret"}, 0, {.payload_bytes = 16});
    reception.await_all(soon);
    std::abort();  // it knows no secret
  } catch (const Error&) {
  }
}

// The first byte says which of the two the others are for.
inline void hear_peer(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (std::to_integer<int>(bytes[0]) % 32 == 0)
    visit(bytes.subspan(1));
  else
    run_operations(bytes.subspan(1));
}

}  // namespace switchyard::fuzz
