// src/device/deferred_free.h -- memory whose owner is done with it while another process may still
// have it open: freed later, or never, and no thread waits for it.
#pragma once

#include <algorithm>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace switchyard {

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

}  // namespace switchyard
