// src/device/open_handles.cc
#include "device/open_handles.h"

namespace switchyard {

std::shared_ptr<void> OpenHandles::get(const Key& key, const std::function<void*()>& open,
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

}  // namespace switchyard
