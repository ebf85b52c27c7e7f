// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/fuzz_config.cc
#include <cstdint>

#include "parsers.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  switchyard::fuzz::read_config(text);
  switchyard::fuzz::read_layer(text);
  return 0;
}
