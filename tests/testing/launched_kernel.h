// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/launched_kernel.h -- what a call launches, looked at without running it.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "testing/cuda_graph.h"

namespace switchyard::testing {

// Of the one kernel that `enqueue` puts on the stream that it is given.
template <class F>
cudaKernelNodeParams launched_kernel(F&& enqueue) {
  const Stream stream;
  cudaGraph_t graph = nullptr;
  cudaGraphNode_t node = nullptr;
  size_t num_nodes = 1;
  cudaKernelNodeParams params{};
  SWITCHYARD_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed));
  enqueue(stream.get());
  SWITCHYARD_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
  SWITCHYARD_CUDA_CHECK(cudaGraphGetNodes(graph, &node, &num_nodes));
  EXPECT_EQ(num_nodes, 1u);
  SWITCHYARD_CUDA_CHECK(cudaGraphKernelNodeGetParams(node, &params));
  SWITCHYARD_CUDA_CHECK(cudaGraphDestroy(graph));
  return params;
}

}  // namespace switchyard::testing
