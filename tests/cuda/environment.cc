// tests/cuda/environment.cc -- what CUDA reads when it starts.
#include <cstdlib>

namespace switchyard::testing {
namespace {

// Streams share eight queues by default. Where ranks share a GPU, one that waits for a peer must
// not stand before that peer's work.
[[maybe_unused]] const int kQueues = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);

}  // namespace
}  // namespace switchyard::testing
