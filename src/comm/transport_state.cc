// src/comm/transport_state.cc
#include "comm/transport_state.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/require.h"

namespace switchyard {

std::optional<Error> TransportState::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void TransportState::record(const std::string& reason) {
  failure_.emplace(Errc::Transport, reason);
}

void TransportState::fail(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (failure_) return;
  record(reason);
  transport_->notify(reason);
  notify_watches();
}

void TransportState::listen() {
  const std::lock_guard lock(mutex_);
  bool heard = false;
  while (const auto notice = transport_->notice()) {
    heard = true;
    if (!notice->reason)
      left_.push_back(notice->peer);
    else if (!failure_)
      record(*notice->reason);
  }
  if (heard) notify_watches();
}

std::optional<size_t> TransportState::first_left(const std::vector<int>& peers) const {
  const std::lock_guard lock(mutex_);
  return find_left(peers);
}

std::optional<size_t> TransportState::find_left(const std::vector<int>& peers) const {
  for (const int left : left_)
    if (const auto at = std::find(peers.begin(), peers.end(), left); at != peers.end())
      return static_cast<size_t>(at - peers.begin());
  return {};
}

void TransportState::notify_watches() const {
  for (const auto& [number, watch] : watches_)
    if (failure_ || find_left(watch.peers)) watch.ended();
}

uint64_t TransportState::watch(const std::vector<int>& peers, const std::function<void()>& ended) {
  const std::lock_guard thread_lock(thread_mutex_);
  if (!thread_.joinable()) start();
  const std::lock_guard lock(mutex_);
  if (failure_ || find_left(peers)) ended();
  watches_.emplace(++last_watch_, Watch{peers, ended});
  return last_watch_;
}

void TransportState::forget(uint64_t watch) {
  const std::lock_guard thread_lock(thread_mutex_);
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    watches_.erase(watch);
    last = watches_.empty();
  }
  if (last) stop();
}

void TransportState::start() {
  stop_ = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  SWITCHYARD_REQUIRE(stop_.open(), Unsupported, "communicator: eventfd, ", std::strerror(errno),
                     ". Raise the limit of open files.");
  try {
    thread_ = std::jthread([this, stop = stop_.fd()] {
      while (transport_->wait_for_notice(stop)) listen();
    });
  } catch (const std::system_error& e) {
    throw Error(Errc::Unsupported, cat("communicator: no thread to listen for peers (", e.what(),
                                       "). Raise the limit of threads."));
  }
}

void TransportState::stop() {
  const uint64_t one = 1;
  (void)!write(stop_.fd(), &one, sizeof one);
  thread_.join();
  thread_ = {};
  stop_ = {};
}

}  // namespace switchyard
