// src/comm/shared_window.cc
#include "comm/shared_window.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "device/deferred_free.h"

namespace switchyard {
namespace {

// Ranks of one program end within milliseconds of each other; a second for a late one is not felt.
constexpr std::chrono::milliseconds kPatience{1000};

bool any_held(const std::vector<PeerProcessLock>& locks) {
  return std::ranges::any_of(locks, &PeerProcessLock::held);
}

}  // namespace

SharedWindow::SharedWindow(std::shared_ptr<void> owner, std::shared_ptr<int32_t> ended)
    : owner_(std::move(owner)), ended_(std::move(ended)) {}

void SharedWindow::lend_to(const ProcessLock::Place& peer, const std::string& who) {
  peers_->emplace_back(peer, who);
}

bool SharedWindow::wait_for_peers() const {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (any_held(*peers_)) {
    if (std::atomic_ref(*ended_).load(std::memory_order_relaxed) != 0) return false;
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

SharedWindow::~SharedWindow() {
  borrowed_.clear();
  mine_.release();
  if (wait_for_peers() || owner_ == nullptr) return;
  defer_free(std::move(owner_), [peers = peers_] { return any_held(*peers); });
}

}  // namespace switchyard
