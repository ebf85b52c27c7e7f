// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/cuda_graph.h -- a stream of its own, and work captured from it once.
#pragma once

#include <cuda_runtime_api.h>

#include "device/cuda_check.h"

namespace switchyard::testing {

class Stream {
 public:
  Stream() { SWITCHYARD_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { (void)cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Graph {
 public:
  // What `enqueue` puts on `stream`; other threads' streams go on meanwhile. On the device before
  // this returns, so that no launch allocates.
  template <class F>
  Graph(cudaStream_t stream, F&& enqueue) {
    cudaGraph_t graph = nullptr;
    SWITCHYARD_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    SWITCHYARD_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    SWITCHYARD_CUDA_CHECK(cudaGraphInstantiate(&exec_, graph, 0));
    SWITCHYARD_CUDA_CHECK(cudaGraphDestroy(graph));
    SWITCHYARD_CUDA_CHECK(cudaGraphUpload(exec_, stream));
    SWITCHYARD_CUDA_CHECK(cudaStreamSynchronize(stream));
  }
  ~Graph() { (void)cudaGraphExecDestroy(exec_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) { SWITCHYARD_CUDA_CHECK(cudaGraphLaunch(exec_, stream)); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace switchyard::testing
