// src/device/kept_memory.h -- memory whose owner is done with it while another process may still
// have it open: freed later, or never, but nobody waits.
#pragma once

#include <functional>
#include <memory>

namespace switchyard {

// Keeps `memory` until `in_use` says no. It is asked by free_what_is_returned, on any thread.
void keep_while(std::shared_ptr<void> memory, std::function<bool()> in_use);

// Before whoever needs memory is told that there is none.
void free_what_is_returned();

}  // namespace switchyard
