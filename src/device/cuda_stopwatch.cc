// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/cuda_stopwatch.cc
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <type_traits>

#include "device/cuda_check.h"
#include "device/stopwatch.h"

namespace switchyard {
namespace {

constexpr size_t kFlushBytes = size_t{256} << 20;

template <class Handle, cudaError_t (*destroy)(Handle)>
struct Destroy {
  void operator()(Handle handle) const { (void)destroy(handle); }
};
template <class Handle, cudaError_t (*destroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<Handle, destroy>>;
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

Event make_event() {
  cudaEvent_t event = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaEventCreate(&event));
  return Event(event);
}

// The device idles after a set of runs for four times as long as it worked. Large layers are bound
// by power: without it, what is measured next would be measured on the card that these runs made
// hot.
class Rest {
 public:
  Rest() = default;
  ~Rest() {
    const auto worked = Clock::now() - begin_;
    std::this_thread::sleep_for(std::min<Clock::duration>(4 * worked, std::chrono::seconds(1)));
  }
  Rest(const Rest&) = delete;
  Rest& operator=(const Rest&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin_ = Clock::now();
};

double us_between(const Event& begin, const Event& end) {
  float ms = 0;
  SWITCHYARD_CUDA_CHECK(cudaEventElapsedTime(&ms, begin.get(), end.get()));
  return double{ms} * 1e3;
}

int count_kernels(cudaGraph_t graph) {
  size_t count = 0;
  SWITCHYARD_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  SWITCHYARD_CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
  return static_cast<int>(std::ranges::count_if(nodes, [](cudaGraphNode_t node) {
    cudaGraphNodeType type{};
    SWITCHYARD_CUDA_CHECK(cudaGraphNodeGetType(node, &type));
    return type == cudaGraphNodeTypeKernel;
  }));
}

struct Captured {
  GraphExec exec;
  int num_kernels;
};

Captured capture(const Enqueue& enqueue, cudaStream_t stream) {
  cudaGraph_t raw = nullptr;
  // Of this thread alone: ranks are threads, and others may allocate meanwhile.
  SWITCHYARD_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    enqueue(stream);
  } catch (...) {
    (void)cudaStreamEndCapture(stream, &raw);  // the stream is usable again
    (void)cudaGetLastError();
    const Graph discarded(raw);
    throw;
  }
  SWITCHYARD_CUDA_CHECK(cudaStreamEndCapture(stream, &raw));
  const Graph graph(raw);
  cudaGraphExec_t exec = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaGraphInstantiate(&exec, graph.get(), 0));
  return {GraphExec(exec), count_kernels(graph.get())};
}

class CudaStopwatch final : public Stopwatch {
 public:
  explicit CudaStopwatch(Backend& backend) : flushed_(allocate(backend, kFlushBytes)) {
    SWITCHYARD_CUDA_CHECK(cudaDeviceSynchronize());  // the stream does not wait for the default one
    cudaStream_t stream = nullptr;
    SWITCHYARD_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    stream_.reset(stream);
  }

  CUstream_st* stream() override { return stream_.get(); }

  std::vector<double> replay(const Enqueue& enqueue, int repeat, Cache cache) override {
    const Captured graph = capture(enqueue, stream_.get());
    num_kernels_ = graph.num_kernels;
    return this->repeat(
        [&](cudaStream_t stream) {
          SWITCHYARD_CUDA_CHECK(cudaGraphLaunch(graph.exec.get(), stream));
        },
        repeat, cache);
  }

  int num_kernels() const override { return num_kernels_; }

  // Everything is enqueued before the host waits, so that the device never waits for the host
  // between an event and the work behind it.
  std::vector<double> repeat(const Enqueue& enqueue, int repeat, Cache cache) override {
    std::vector<Event> begin, end;
    for (int i = 0; i < repeat; ++i) begin.push_back(make_event()), end.push_back(make_event());
    const Rest rest;
    enqueue(stream_.get());
    for (size_t i = 0; i < begin.size(); ++i) {
      if (cache == Cache::Cold) flush(stream_.get());
      SWITCHYARD_CUDA_CHECK(cudaEventRecord(begin[i].get(), stream_.get()));
      enqueue(stream_.get());
      SWITCHYARD_CUDA_CHECK(cudaEventRecord(end[i].get(), stream_.get()));
    }
    SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
    std::vector<double> us;
    for (size_t i = 0; i < begin.size(); ++i) us.push_back(us_between(begin[i], end[i]));
    return us;
  }

  std::vector<std::vector<double>> replay_parts(int num_parts, const EnqueueParts& enqueue,
                                                const std::function<void()>& ready, int repeat,
                                                Cache cache) override {
    const auto num = static_cast<size_t>(num_parts);
    std::vector<Event> begin, end;
    for (size_t i = 0; i < num; ++i) begin.push_back(make_event()), end.push_back(make_event());
    const Mark mark = [&](int part, Edge edge) {  // anew by each replay
      const Event& event = (edge == Edge::Begin ? begin : end)[part];
      SWITCHYARD_CUDA_CHECK(
          cudaEventRecordWithFlags(event.get(), stream_.get(), cudaEventRecordExternal));
    };
    const Captured graph =
        capture([&](cudaStream_t stream) { enqueue(stream, mark); }, stream_.get());
    ready();
    const Rest rest;
    std::vector<std::vector<double>> us(num);
    for (int run = -1; run < repeat; ++run) {  // one that warms up
      if (cache == Cache::Cold) flush(stream_.get());
      SWITCHYARD_CUDA_CHECK(cudaGraphLaunch(graph.exec.get(), stream_.get()));
      SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
      for (size_t i = 0; run >= 0 && i < num; ++i) us[i].push_back(us_between(begin[i], end[i]));
    }
    return us;
  }

  void flush(CUstream_st* stream) override {
    SWITCHYARD_CUDA_CHECK(cudaMemsetAsync(flushed_.get(), 0, kFlushBytes, stream));
  }

 private:
  std::shared_ptr<void> flushed_;
  int num_kernels_ = 0;
  Stream stream_;
};

}  // namespace

std::unique_ptr<Stopwatch> make_cuda_stopwatch(Backend& backend) {
  return std::make_unique<CudaStopwatch>(backend);
}

}  // namespace switchyard
