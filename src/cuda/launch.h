// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/launch.h -- one way to launch a kernel: checked, and allowed to start while its
// predecessor on the stream ends (programmatic dependent launch).
//
// So a kernel must call wait_for_predecessor() before it touches memory that another kernel of the
// stream reads or writes, and may call allow_successor() once its blocks are all resident or done.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "cuda/load_kernels.h"
#include "device/cuda_check.h"
#include "switchyard/tensor.h"

namespace switchyard::cuda {

// Below compute capability 9.0 both are nothing: the launch attribute has no effect there.
__device__ __forceinline__ void wait_for_predecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void allow_successor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// One in every file with kernels, so that load_kernels finds the file's others.
static __global__ void module_mark_kernel() {}
[[maybe_unused]] static const bool module_is_noted =
    note_module(reinterpret_cast<const void*>(module_mark_kernel));

struct LaunchShape {
  dim3 grid, block;
  size_t smem_bytes = 0;
  unsigned cluster = 1;  // consecutive blocks along x; divides grid.x
};

// An empty grid is normal (no rows) and launches nothing.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream,
            Args&&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.smem_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.cluster > 1 ? 2 : 1;
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  if (code != cudaSuccess)
    check(code, cat("launch of ", shape.grid.x, "x", shape.grid.y, "x", shape.grid.z, " blocks of ",
                    shape.block.x, " threads and ", shape.smem_bytes, " bytes")
                    .c_str());
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem_bytes,
            cudaStream_t stream, Args&&... args) {
  launch(kernel, LaunchShape{grid, block, smem_bytes}, stream, std::forward<Args>(args)...);
}

}  // namespace switchyard::cuda
