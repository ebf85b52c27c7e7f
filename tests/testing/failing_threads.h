// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/failing_threads.h -- a system that runs out of threads. Include it in one file of a
// test program.
#pragma once

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>

namespace switchyard::testing {
inline std::atomic<int> g_threads_left = -1;  // below 0: no end of them
}  // namespace switchyard::testing

// In place of the C library's, or a sanitizer's, which it calls.
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                              void* (*start)(void*), void* argument) {
  using Create = decltype(&pthread_create);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  auto& left = switchyard::testing::g_threads_left;
  if (left == 0) return EAGAIN;
  if (left > 0) --left;
  return create(thread, attributes, start, argument);
}
