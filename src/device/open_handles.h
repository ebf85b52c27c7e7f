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

  // What `open` gives, or gave an earlier caller who still has it. `close` gets it when the last of
  // them lets go, before anybody opens it again. Both run one at a time.
  std::shared_ptr<void> get(const Key& key, const std::function<void*()>& open,
                            const std::function<void(void*)>& close);

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
