// src/comm/reason.h -- why a communicator is over, for whom a device told that it is.
#pragma once

#include <chrono>
#include <string>

#include "switchyard/communicator.h"

namespace switchyard {

// Words in windows are faster than the host's: the reason may still be on its way. Empty if none
// comes within `patience`.
std::string await_reason(const Communicator& communicator, std::chrono::milliseconds patience);

}  // namespace switchyard
