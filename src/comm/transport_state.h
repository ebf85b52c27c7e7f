// src/comm/transport_state.h -- how a transport ends: why it failed, which peers left, and whom to
// notify of that while the rank's own thread is busy elsewhere.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/byte_transport.h"
#include "comm/sockets.h"
#include "switchyard/error.h"

namespace switchyard {

class TransportState {
 public:
  TransportState(std::unique_ptr<ByteTransport> transport, std::chrono::milliseconds deadline)
      : transport_(std::move(transport)), deadline_(deadline) {}

  ByteTransport& transport() { return *transport_; }
  std::chrono::milliseconds deadline() const { return deadline_; }
  std::optional<Error> failure() const;
  // The first reason stays; peers get it if it is this rank's.
  void fail(const std::string& reason);
  // Takes in the notices of peers until now.
  void listen();
  // Of `peers` the one that is known to have left first, which is no failure until it is
  // needed.
  std::optional<size_t> first_left(const std::vector<int>& peers) const;

  // `ended` is called on a failure, or when one of `peers` leaves; until `forget` gets what this
  // returned. A thread listens as long as there is a watch. Throws Error(Unsupported) without one.
  uint64_t watch(const std::vector<int>& peers, const std::function<void()>& ended);
  void forget(uint64_t watch);

 private:
  struct Watch {
    std::vector<int> peers;
    std::function<void()> ended;
  };

  std::optional<size_t> find_left(const std::vector<int>& peers) const;
  void record(const std::string& reason);
  void notify_watches() const;
  void start();
  void stop();

  std::unique_ptr<ByteTransport> transport_;
  const std::chrono::milliseconds deadline_;
  mutable std::mutex mutex_;  // of all that follows, and of transport_->notice
  std::optional<Error> failure_;
  std::vector<int> left_;  // peers, as they were heard
  std::map<uint64_t, Watch> watches_;
  uint64_t last_watch_ = 0;

  std::mutex thread_mutex_;  // before mutex_
  FileDescriptor stop_;
  std::jthread thread_;  // first to go
};

}  // namespace switchyard
