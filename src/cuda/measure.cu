// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/measure.cu
#include "cuda/measure.cuh"

#include <algorithm>

#include "cuda/measure.h"
#include "device/cuda_device.h"

namespace switchyard {
namespace cuda {

void read_all(uint32_t* out, const void* data, int64_t bytes, int num_sms, cudaStream_t stream) {
  launch(read_all_kernel, dim3(static_cast<unsigned>(num_sms) * 4), dim3(512), 0, stream, out,
         static_cast<const uint4*>(data), bytes / 16);
}

void copy_all(void* dst, const void* src, int64_t bytes, int num_sms, cudaStream_t stream) {
  launch(copy_kernel, dim3(static_cast<unsigned>(num_sms) * 4), dim3(512), 0, stream,
         static_cast<uint4*>(dst), static_cast<const uint4*>(src), bytes / 16);
}

void spin_clock(int64_t* out, cudaStream_t stream) {
  launch(spin_clock_kernel, dim3(1), dim3(1), 0, stream, out);
}

}  // namespace cuda

void fill_random(Tensor dst, uint64_t seed, int64_t first_expert, int number, float range,
                 float middle) {
  if (dst.count() == 0) return;
  const int64_t slices = first_expert < 0 ? 1 : dst.dim(0), per_slice = dst.count() / slices;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>((per_slice + 255) / 256, 1024)),
                  static_cast<unsigned>(slices));
  const auto fill = [&](auto out) {
    cuda::launch(cuda::fill_random_kernel<decltype(out)>, grid, dim3(256), 0, nullptr, out,
                 per_slice, seed, first_expert, number, range, middle);
  };
  if (dst.dtype == DType::F32)
    fill(cuda::AsF32{dst.as<float>()});
  else if (dst.dtype == DType::F8E4m3)
    fill(cuda::AsF8{static_cast<uint8_t*>(dst.data)});
  else
    fill(cuda::AsBf16{static_cast<uint16_t*>(dst.data)});
}

}  // namespace switchyard
