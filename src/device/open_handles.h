// src/device/open_handles.h -- memory of other processes that this one has open: each allocation
// once, however many windows lie in it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace switchyard {

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
