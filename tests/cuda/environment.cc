// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/environment.cc -- what CUDA reads when it starts.
#include <cstdlib>

namespace switchyard::testing {
namespace {

// Streams share eight queues for kernels and eight for copies by default. Where ranks share a GPU,
// what waits for a peer must not stand in a queue before that peer's work.
[[maybe_unused]] const bool kQueues = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0) == 0 &&
                                      setenv("CUDA_DEVICE_MAX_COPY_CONNECTIONS", "32", 0) == 0;

}  // namespace
}  // namespace switchyard::testing
