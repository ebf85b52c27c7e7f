// src/device/kept_memory.cc
#include "device/kept_memory.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

namespace switchyard {
namespace {

struct Kept {
  std::shared_ptr<void> memory;
  std::function<bool()> in_use;
};

struct Shelf {
  std::mutex mutex;
  std::vector<Kept> all;
};

// Never destroyed: at the end of the process the system takes memory back, in the right order.
Shelf& shelf() {
  static Shelf& all = *new Shelf;
  return all;
}

}  // namespace

void keep_while(std::shared_ptr<void> memory, std::function<bool()> in_use) {
  const std::lock_guard lock(shelf().mutex);
  shelf().all.push_back({std::move(memory), std::move(in_use)});
}

void free_what_is_returned() {
  std::vector<Kept> returned;  // freed without the lock: that may wait for a device
  const std::lock_guard lock(shelf().mutex);
  auto& all = shelf().all;
  const auto first =
      std::partition(all.begin(), all.end(), [](const Kept& kept) { return kept.in_use(); });
  returned.assign(std::make_move_iterator(first), std::make_move_iterator(all.end()));
  all.erase(first, all.end());
}

}  // namespace switchyard
