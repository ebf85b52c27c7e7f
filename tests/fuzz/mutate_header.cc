// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/mutate_header.cc -- how the fuzzer changes a safetensors file: the header as JSON,
// with a length that mostly stays true; or the whole as any bytes.
#include <algorithm>
#include <cstring>

#include "mutate.h"

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  constexpr size_t kLength = sizeof(uint64_t);
  switchyard::fuzz::Mutator mutator(seed);
  if (size < kLength || mutator.below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
  uint64_t length = 0;
  std::memcpy(&length, data, kLength);
  std::string file(reinterpret_cast<const char*>(data), size);
  const std::string header = file.substr(kLength, std::min<uint64_t>(length, size));
  const std::string changed = switchyard::fuzz::mutated(header, max_size - kLength, mutator);
  file.replace(kLength, header.size(), changed);
  length = changed.size();
  std::memcpy(file.data(), &length, kLength);
  return file.copy(reinterpret_cast<char*>(data), max_size);
}
