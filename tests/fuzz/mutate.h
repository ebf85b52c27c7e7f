// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/mutate.h -- one change of a text inside a fuzzer.
#pragma once

#include <algorithm>
#include <string>

#include "mutation.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace switchyard::fuzz {

inline std::string mutated(std::string text, size_t max_size, Mutator& mutator) {
  if (mutator.below(2) == 0) {
    mutator.change(text);
    text.resize(std::min(text.size(), max_size));
  } else {
    const size_t size = text.size();
    text.resize(std::max(size, max_size));
    text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), size, text.size()));
  }
  return text;
}

}  // namespace switchyard::fuzz
