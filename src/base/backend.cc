// src/base/backend.cc
#include "base/backend.h"

namespace switchyard {

void observe_operations(Backend& backend, OpObserver observer) {
  backend.observe(std::move(observer));
}

}  // namespace switchyard
