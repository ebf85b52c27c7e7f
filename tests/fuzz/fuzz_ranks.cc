// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/fuzz_ranks.cc
#include "peer_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  switchyard::fuzz::hear_peer(std::as_bytes(std::span(data, size)));
  return 0;
}
