// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/shared_by_ranks.h -- what the ranks of a communicator made together, such as a
// connection of their devices: one for all who need it, while any of them does.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "comm/handshake.h"
#include "switchyard/communicator.h"

namespace switchyard {

// T says with is_open() whether it can be used any more.
template <class T>
class SharedByRanks {
 public:
  // Collective. What every rank has for `host` and its device, if it is the same thing everywhere
  // and open; else what `make`, collective too, gives. `host` must outlive it.
  template <class F>
  std::shared_ptr<T> get(Communicator& host, int device, F make) {
    Handshake mine;
    std::shared_ptr<T> shared;
    {
      const std::lock_guard lock(mutex_);
      const Entry& entry = entries_[{&host, device}];
      shared = entry.shared.lock();
      if (shared && !shared->is_open()) shared.reset();
      mine = {shared ? entry.number : 0, newest_};
    }
    const auto all = exchange_words(host, mine);
    const bool is_the_same = std::ranges::all_of(
        all, [&](const Handshake& h) { return h.number != 0 && h.number == mine.number; });
    if (is_the_same) return shared;
    const int64_t number = std::ranges::max(all, {}, &Handshake::newest).newest + 1;
    shared = make();
    const std::lock_guard lock(mutex_);
    std::erase_if(entries_, [](const auto& e) { return e.second.shared.expired(); });
    newest_ = std::max(newest_, number);
    entries_[{&host, device}] = {number, shared};
    return shared;
  }

 private:
  // Numbers of one communicator only grow, on every rank alike, so that one that is new here is not
  // taken for an older one elsewhere: a rank may be done with that, and another one not yet.
  struct Handshake {
    int64_t number = 0;  // of what this rank has; 0: nothing
    int64_t newest = 0;  // of all that this process ever had
  };
  struct Entry {
    int64_t number = 0;
    std::weak_ptr<T> shared;
  };

  std::mutex mutex_;
  std::map<std::pair<const Communicator*, int>, Entry> entries_;  // by communicator and device
  int64_t newest_ = 0;
};

}  // namespace switchyard
