// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/no_allocation_test.cc -- a forward neither allocates nor waits, on the device or the
// host. The linker gives every call below to its __wrap_ first (tests/CMakeLists.txt has the same
// list), wherever in this program it is made.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <string>

#include "device/cuda_check.h"
#include "testing/counted_new.h"
#include "testing/cuda_layer.h"
#include "testing/gpu_ranks.h"
#include "testing/linear_attention.h"

namespace {

std::atomic<int64_t> g_cuda_calls = 0;
std::atomic<const char*> g_last_cuda_call = "none";

}  // namespace

#define SWITCHYARD_COUNT(name, parameters, arguments) \
  extern "C" cudaError_t __real_##name parameters;    \
  extern "C" cudaError_t __wrap_##name parameters {   \
    ++g_cuda_calls;                                   \
    g_last_cuda_call = #name;                         \
    return __real_##name arguments;                   \
  }

SWITCHYARD_COUNT(cudaMalloc, (void** p, size_t bytes), (p, bytes))
SWITCHYARD_COUNT(cudaMallocAsync, (void** p, size_t bytes, cudaStream_t s), (p, bytes, s))
SWITCHYARD_COUNT(cudaMallocFromPoolAsync,
                 (void** p, size_t bytes, cudaMemPool_t pool, cudaStream_t s), (p, bytes, pool, s))
SWITCHYARD_COUNT(cudaMallocManaged, (void** p, size_t bytes, unsigned flags), (p, bytes, flags))
SWITCHYARD_COUNT(cudaMallocHost, (void** p, size_t bytes), (p, bytes))
SWITCHYARD_COUNT(cudaHostAlloc, (void** p, size_t bytes, unsigned flags), (p, bytes, flags))
SWITCHYARD_COUNT(cudaFree, (void* p), (p))
SWITCHYARD_COUNT(cudaFreeAsync, (void* p, cudaStream_t s), (p, s))
SWITCHYARD_COUNT(cudaFreeHost, (void* p), (p))
SWITCHYARD_COUNT(cudaDeviceSynchronize, (), ())
SWITCHYARD_COUNT(cudaStreamSynchronize, (cudaStream_t s), (s))
SWITCHYARD_COUNT(cudaEventSynchronize, (cudaEvent_t e), (e))
SWITCHYARD_COUNT(cudaMemcpy, (void* dst, const void* src, size_t bytes, cudaMemcpyKind kind),
                 (dst, src, bytes, kind))
SWITCHYARD_COUNT(cudaMemset, (void* dst, int value, size_t bytes), (dst, value, bytes))
SWITCHYARD_COUNT(cudaStreamCreate, (cudaStream_t * s), (s))
SWITCHYARD_COUNT(cudaStreamCreateWithFlags, (cudaStream_t * s, unsigned flags), (s, flags))
SWITCHYARD_COUNT(cudaStreamCreateWithPriority, (cudaStream_t * s, unsigned flags, int priority),
                 (s, flags, priority))
SWITCHYARD_COUNT(cudaEventCreate, (cudaEvent_t * e), (e))
SWITCHYARD_COUNT(cudaEventCreateWithFlags, (cudaEvent_t * e, unsigned flags), (e, flags))
#undef SWITCHYARD_COUNT

// Asynchronous by name, but from or to pageable memory it waits; a forward needs neither direction.
extern "C" cudaError_t __real_cudaMemcpyAsync(void* dst, const void* src, size_t bytes,
                                              cudaMemcpyKind kind, cudaStream_t stream);
extern "C" cudaError_t __wrap_cudaMemcpyAsync(void* dst, const void* src, size_t bytes,
                                              cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind != cudaMemcpyDeviceToDevice) ++g_cuda_calls, g_last_cuda_call = "cudaMemcpyAsync";
  return __real_cudaMemcpyAsync(dst, src, bytes, kind, stream);
}

namespace switchyard::testing {
namespace {

struct Seen {
  int64_t host_allocations;
  int64_t cuda_calls;
};

template <class F>
Seen seen_in(F&& f) {
  const Seen before{testing::g_allocations, g_cuda_calls};
  f();
  return {testing::g_allocations - before.host_allocations, g_cuda_calls - before.cuda_calls};
}

TEST(NoAllocation, TheCountersSeeDeliberateCalls) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  cuda_backend();  // and its context
  EXPECT_EQ(seen_in([] { SWITCHYARD_CUDA_CHECK(cudaDeviceSynchronize()); }).cuda_calls, 1);
  EXPECT_EQ(seen_in([] { SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(nullptr)); }).cuda_calls, 1);
  const Seen library = seen_in([] { allocate(cuda_backend(), 1024); });
  EXPECT_EQ(library.cuda_calls, 2) << "cudaMalloc and cudaFree inside the library";
  EXPECT_GE(library.host_allocations, 1) << "the shared pointer's block";
  int32_t word = 0;
  const auto memory = allocate(cuda_backend(), sizeof word);
  const Tensor on_device(static_cast<int32_t*>(memory.get()), {1}, DeviceKind::Cuda);
  copy_to_host(cuda_backend(), &word, on_device);  // the first takes pinned memory for all
  EXPECT_EQ(seen_in([&] { copy_to_host(cuda_backend(), &word, on_device); }).cuda_calls, 2)
      << "cudaMemcpyAsync to the host and cudaStreamSynchronize inside the library";
}

TEST(NoAllocation, AForwardNeitherAllocatesNorWaits) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const char* strategy : {"contiguous", "masked", "hybrid"})
    for (const int64_t tokens : {1, 64, 300}) {
      const auto layer = cuda_layer(small_config(), strategy, tokens, 64);
      CudaCall call(small_config(), tokens);
      const auto given = call.args_given_routing(nullptr, call.output.view());
      const auto gated = call.args(nullptr, call.output.view());
      layer->forward(given), layer->forward(gated);  // kernels are loaded at their first launch
      layer->wait();
      const Seen seen = seen_in([&] {
        for (int i = 0; i < 3; ++i) layer->forward(given), layer->forward(gated);
      });
      EXPECT_EQ(seen.host_allocations, 0) << strategy << ", " << tokens << " tokens";
      EXPECT_EQ(seen.cuda_calls, 0)
          << strategy << ", " << tokens << " tokens, the last call was " << g_last_cuda_call;
      layer->wait();
    }
}

TEST(NoAllocation, AStepOfLinearAttentionNeitherAllocatesNorWaits) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto attention = LinearAttention::create(shared_cuda_backend(), 8);
  ConvProblem conv;
  conv.paged.lengths = {20, 66, 5};
  DeltaProblem delta;
  delta.paged = conv.paged;
  ConvStep<Bf16, Bf16, CudaBuffer> conv_step(conv);
  DeltaStep<Bf16, CudaBuffer> delta_step(delta);
  const auto run = [&] {
    attention->conv_decode(conv_step.args());
    attention->delta_rule_decode(delta_step.args());
  };
  run();  // kernels are loaded at their first launch
  attention->wait_status();
  const Seen seen = seen_in(run);
  EXPECT_EQ(seen.host_allocations, 0);
  EXPECT_EQ(seen.cuda_calls, 0) << "the last call was " << g_last_cuda_call;
  attention->wait_status();
}

TEST(NoAllocation, AForwardOfSeveralRanksNeitherAllocatesNorWaits) {
  SWITCHYARD_SKIP_WITHOUT_HOPPER();
  for (const char* strategy :
       {"contiguous", "masked", "all_gather+contiguous", "low_latency+masked"}) {
    std::barrier together(2);
    Seen seen{};
    run_gpu_ranks({2, 1}, [&](GpuRank& g) {
      const MoeConfig config = small_config();
      LayerOptions options;
      options.max_tokens = 64;
      options.strategy = strategy;
      options.device = DeviceKind::Cuda;
      options.backend = g.backend;
      const auto weights = to_device(random_weights(config, 2, g.rank(), 3), config, 2, *g.backend);
      const auto layer = MoeLayer::create(config, weights, g.comm, options);
      const OnDevice hidden(*g.backend, random_bf16({64, config.hidden}, 1).view());
      const OnDevice output(*g.backend, DType::Bf16, hidden.view().shape);
      const ForwardArgs args{.output = output.view(), .hidden = hidden.view(), .stream = g.stream};
      together.arrive_and_wait();
      layer->forward(args), layer->wait(g.stream);
      together.arrive_and_wait();
      // Both ranks' calls between the barriers.
      const Seen own = seen_in([&] {
        together.arrive_and_wait();
        for (int i = 0; i < 3; ++i) layer->forward(args);
        together.arrive_and_wait();
      });
      if (g.rank() == 0) seen = own;
      together.arrive_and_wait();  // both have counted
      layer->wait(g.stream);
      together.arrive_and_wait();
    });
    EXPECT_EQ(seen.host_allocations, 0) << strategy;
    EXPECT_EQ(seen.cuda_calls, 0) << strategy << ", the last call was " << g_last_cuda_call;
  }
}

}  // namespace
}  // namespace switchyard::testing
