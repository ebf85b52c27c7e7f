// src/weights/available_memory.h -- how much memory this process could still take.
#pragma once

#include <cstdint>
#include <filesystem>

namespace switchyard {

struct AvailableMemory {
  uint64_t bytes = UINT64_MAX;  // unknown is "enough"
  const char* of = "";          // which limit it is: "the machine", ...
};

// The least of what the machine, each control group above this process (v1 and v2) and the limits
// of the process leave. Files that a group has cached but does not use count as free. `root` holds
// proc and sys.
AvailableMemory available_memory(const std::filesystem::path& root = "/");

}  // namespace switchyard
