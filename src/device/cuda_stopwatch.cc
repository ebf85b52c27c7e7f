// src/device/cuda_stopwatch.cc
#include <cuda_runtime_api.h>

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

GraphExec capture(const Enqueue& enqueue, cudaStream_t stream) {
  cudaGraph_t raw = nullptr;
  SWITCHYARD_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
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
  return GraphExec(exec);
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

  // Everything is enqueued before the host waits, so that the device never waits for the host
  // between an event and the graph behind it.
  std::vector<double> replay(const Enqueue& enqueue, int repeat, Cache cache) override {
    const GraphExec graph = capture(enqueue, stream_.get());
    std::vector<Event> begin, end;
    for (int i = 0; i < repeat; ++i) begin.push_back(make_event()), end.push_back(make_event());
    SWITCHYARD_CUDA_CHECK(cudaGraphLaunch(graph.get(), stream_.get()));
    for (size_t i = 0; i < begin.size(); ++i) {
      if (cache == Cache::Cold) flush();
      SWITCHYARD_CUDA_CHECK(cudaEventRecord(begin[i].get(), stream_.get()));
      SWITCHYARD_CUDA_CHECK(cudaGraphLaunch(graph.get(), stream_.get()));
      SWITCHYARD_CUDA_CHECK(cudaEventRecord(end[i].get(), stream_.get()));
    }
    SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
    std::vector<double> us;
    for (size_t i = 0; i < begin.size(); ++i) {
      float ms = 0;
      SWITCHYARD_CUDA_CHECK(cudaEventElapsedTime(&ms, begin[i].get(), end[i].get()));
      us.push_back(double{ms} * 1e3);
    }
    return us;
  }

 private:
  void flush() {
    SWITCHYARD_CUDA_CHECK(cudaMemsetAsync(flushed_.get(), 0, kFlushBytes, stream_.get()));
  }

  std::shared_ptr<void> flushed_;
  Stream stream_;
};

}  // namespace

std::unique_ptr<Stopwatch> make_cuda_stopwatch(Backend& backend) {
  return std::make_unique<CudaStopwatch>(backend);
}

}  // namespace switchyard
