// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/mutate_text.cc -- how the fuzzer changes JSON: as it would any bytes, or as
// mutation.h, which knows what a number is.
#include "mutate.h"

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  switchyard::fuzz::Mutator mutator(seed);
  const std::string text =
      switchyard::fuzz::mutated({reinterpret_cast<const char*>(data), size}, max_size, mutator);
  return text.copy(reinterpret_cast<char*>(data), max_size);
}
