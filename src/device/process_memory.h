// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/process_memory.h -- memory that several processes have open: that of others, and this
// one's own.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace switchyard {

// ---- memory whose owner is done with it while another process may still have it open: freed later,
// or never, and no thread waits for it

struct DeferredFrees {
  struct Entry {
    std::shared_ptr<void> memory;
    std::function<bool()> in_use;
  };
  std::mutex mutex;
  std::vector<Entry> entries;
};

// Never destroyed: at the end of the process the system takes memory back, in the right order.
inline DeferredFrees& deferred_frees() {
  static auto& of_process = *new DeferredFrees;
  return of_process;
}

// Keeps `memory` until `in_use` says no, which free_deferred asks, on any thread.
inline void defer_free(std::shared_ptr<void> memory, std::function<bool()> in_use) {
  const std::lock_guard lock(deferred_frees().mutex);
  deferred_frees().entries.push_back({std::move(memory), std::move(in_use)});
}

// Before an allocation that may find no memory.
inline void free_deferred() {
  std::vector<DeferredFrees::Entry> unused;  // freed without the lock: that may wait for a device
  const std::lock_guard lock(deferred_frees().mutex);
  auto& all = deferred_frees().entries;
  const auto first =
      std::partition(all.begin(), all.end(), [](const auto& entry) { return entry.in_use(); });
  unused.assign(std::make_move_iterator(first), std::make_move_iterator(all.end()));
  all.erase(first, all.end());
}

// ---- memory of other processes that this one has open: each allocation once, however many windows
// lie in it

class OpenHandles {
 public:
  using Key = std::pair<int, std::array<int64_t, 8>>;  // device that opens, handle

  // What `open` gives, or gave an earlier caller that still has it. `close` gets it when the last
  // of them lets go, before it is opened again. Both run one at a time.
  std::shared_ptr<void> get(const Key& key, const std::function<void*()>& open,
                            const std::function<void(void*)>& close) {
    std::unique_lock lock(state_->mutex);
    auto found = state_->opened.find(key);
    if (found == state_->opened.end()) found = state_->opened.emplace(key, Opened{open(), 0}).first;
    ++found->second.users;
    void* shared = found->second.base;
    lock.unlock();
    return {shared, [state = state_, key, close](void* base) {
              const std::lock_guard closing(state->mutex);
              const auto mine = state->opened.find(key);
              if (--mine->second.users > 0) return;
              state->opened.erase(mine);
              close(base);
            }};
  }

 private:
  struct Opened {
    void* base = nullptr;
    int64_t users = 0;
  };
  struct State {
    std::mutex mutex;
    std::map<Key, Opened> opened;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();  // users may outlive this object
};

}  // namespace switchyard
