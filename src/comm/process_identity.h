// src/comm/process_identity.h -- which host and which process a rank lives in, in words that every
// process can compare.
#pragma once

#include <array>
#include <cstdint>

namespace switchyard {

struct ProcessIdentity {
  std::array<int64_t, 2> host{};  // of this boot of the machine
  int64_t pid = 0;
  int64_t nonce = 0;  // two containers may number their processes alike

  static ProcessIdentity mine();
  bool operator==(const ProcessIdentity&) const = default;
};

}  // namespace switchyard
