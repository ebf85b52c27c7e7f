// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/counted_new.h -- operator new of the whole program, counted. Include it in one file
// of a test program.
#pragma once

#include <cstdlib>
#include <new>

#include "testing/allocations.h"

// GCC pairs malloc with its own operator delete in these replacements and warns without cause.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t bytes) {
  if (switchyard::testing::allocation_fails()) throw std::bad_alloc();
  if (void* address = std::malloc(bytes)) return address;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  if (switchyard::testing::allocation_fails()) throw std::bad_alloc();
  const auto a = static_cast<size_t>(alignment);
  if (void* address = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return address;
  throw std::bad_alloc();
}
// std::stable_sort asks for this one.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return switchyard::testing::allocation_fails() ? nullptr : std::malloc(bytes);
}
void operator delete(void* address) noexcept {
  std::free(address);
}
void operator delete(void* address, size_t) noexcept {
  std::free(address);
}
void operator delete(void* address, std::align_val_t) noexcept {
  std::free(address);
}
void operator delete(void* address, size_t, std::align_val_t) noexcept {
  std::free(address);
}
