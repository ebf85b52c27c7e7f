// src/comm/reason.cc
#include "comm/reason.h"

#include <thread>

namespace switchyard {

std::string await_reason(const Communicator& communicator, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    std::string reason = communicator.failure_reason();
    if (!reason.empty() || std::chrono::steady_clock::now() >= end) return reason;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace switchyard
