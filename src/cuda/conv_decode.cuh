// src/cuda/conv_decode.cuh -- one step of a causal convolution over paged states.
//
// A block takes kConvTile channels of one sequence after the other. The tile of x and the tile of
// the state are contiguous in memory, so they come and go as 16-byte vectors, through shared
// memory, where each thread finds the values of its channels. Widths and tokens are run-time
// values: history and weights stand right-aligned in registers of the largest width, so that every
// register index is a constant.
// Which block of the pool: base/state_slots.h, the same answer for every thread, so nothing
// diverges. All reads of a tile end before its first write, and tiles are disjoint, so a sequence
// may read and write one block.
// Memory bound: x, output, w - 1 values of each channel in and n (w - 1) out, once. Weights come
// from L1 after the first sequence.
#pragma once

#include "base/state_slots.h"
#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx/copy_async.cuh"

namespace switchyard::cuda {

inline constexpr int kConvThreads = 128;
inline constexpr int kConvTile = 512;       // channels: 4 per thread, 4 KiB on their way at width 4
inline constexpr int kConvBlocksPerSm = 6;  // at least: 80 registers, which spill nothing

struct ConvDecodeParams {
  void* output;         // X [batch, dim, num_tokens]
  const void* x;        // X, like output
  void* state;          // S [num_blocks, dim, width - 1]
  const float* weight;  // [dim, width]
  const float* bias;    // [dim] or null
  const int32_t* lengths;
  int32_t* status;
  StateTable table;
  int64_t block_stride;  // elements of S
  int batch, dim, width, num_tokens;
  bool silu;
};

template <class X, class S>
constexpr size_t conv_decode_smem_bytes(int width, int num_tokens) {
  return size_t{kConvTile} * num_tokens * (sizeof(X) + (width - 1) * sizeof(S));
}

// `bytes`, a multiple of 16, by all threads of the block.
__device__ __forceinline__ void copy_tile_in(void* shared, const void* global, int64_t bytes) {
  for (int64_t v = threadIdx.x; v < bytes / 16; v += kConvThreads)
    ptx::copy_async_16(static_cast<uint4*>(shared) + v, static_cast<const uint4*>(global) + v);
}
__device__ __forceinline__ void copy_tile_out(void* global, const void* shared, int64_t bytes) {
  for (int64_t v = threadIdx.x; v < bytes / 16; v += kConvThreads)
    static_cast<uint4*>(global)[v] = static_cast<const uint4*>(shared)[v];
}

// weights[k] multiplies u[t + k]; those left of the width are not read.
__device__ __forceinline__ void load_weights(float (&weights)[kMaxConvWidth],
                                             const ConvDecodeParams& p, int64_t channel) {
  if (p.width == 4) {  // what models have: one vector
    const float4 w = __ldg(reinterpret_cast<const float4*>(p.weight) + channel);
    weights[0] = weights[1] = 0;
    weights[2] = w.x, weights[3] = w.y, weights[4] = w.z, weights[5] = w.w;
    return;
  }
  const int pad = kMaxConvWidth - p.width;
#pragma unroll
  for (int k = 0; k < kMaxConvWidth; ++k)
    weights[k] = k >= pad ? __ldg(p.weight + channel * p.width + k - pad) : 0;
}

// One channel of the tile: x becomes the output, history the state after each token, in place.
template <class X, class S>
__device__ __forceinline__ void convolve_channel(X* x, S* states, const ConvDecodeParams& p,
                                                 int64_t first_channel, int channel) {
  const int depth = p.width - 1, pad = kMaxConvWidth - p.width;
  float weights[kMaxConvWidth], u[kMaxConvWidth - 1 + kMaxStepTokens];
  load_weights(weights, p, first_channel + channel);
  const float bias = p.bias ? __ldg(p.bias + first_channel + channel) : 0;
#pragma unroll
  for (int k = 0; k < kMaxConvWidth - 1; ++k)
    u[k] = k >= pad ? to_float(states[channel * depth + k - pad]) : 0;
#pragma unroll
  for (int t = 0; t < kMaxStepTokens; ++t)
    u[kMaxConvWidth - 1 + t] =
        t < p.num_tokens ? to_float(rounded<S>(to_float(x[channel * p.num_tokens + t]))) : 0;

#pragma unroll
  for (int t = 0; t < kMaxStepTokens; ++t) {
    if (t >= p.num_tokens) continue;
    float sum = bias;
#pragma unroll
    for (int k = 0; k < kMaxConvWidth; ++k)  // rounds twice, as on the CPU
      if (k >= pad) sum = __fadd_rn(sum, __fmul_rn(weights[k], u[t + k]));
    x[channel * p.num_tokens + t] = rounded<X>(p.silu ? sum * sigmoid(sum) : sum);
  }
#pragma unroll
  for (int i = 0; i < kMaxStepTokens; ++i) {
    if (i >= p.num_tokens) continue;
#pragma unroll
    for (int k = 0; k < kMaxConvWidth - 1; ++k)
      if (k >= pad) states[(i * kConvTile + channel) * depth + k - pad] = exact<S>(u[i + 1 + k]);
  }
}

template <class X, class S>
__global__ __launch_bounds__(kConvThreads, kConvBlocksPerSm) void conv_decode_kernel(
    const __grid_constant__ ConvDecodeParams p) {
  extern __shared__ uint4 conv_smem[];
  X* x = reinterpret_cast<X*>(conv_smem);                          // [channels, num_tokens]
  S* states = reinterpret_cast<S*>(x + kConvTile * p.num_tokens);  // [num_tokens, tile, width - 1]
  const int depth = p.width - 1;
  const int64_t first = int64_t{blockIdx.x} * kConvTile;
  const int channels = static_cast<int>(min(int64_t{kConvTile}, p.dim - first));
  const int64_t x_bytes = int64_t{channels} * p.num_tokens * static_cast<int>(sizeof(X));
  const int64_t state_bytes = int64_t{channels} * depth * static_cast<int>(sizeof(S));
  auto* pool = static_cast<S*>(p.state) + first * depth;
  wait_for_predecessor();
  allow_successor();

  for (int64_t b = blockIdx.y; b < p.batch; b += gridDim.y) {
    const int64_t row = (b * p.dim + first) * p.num_tokens;
    copy_tile_in(x, static_cast<const X*>(p.x) + row, x_bytes);  // while the block is looked up
    const StepPlan plan = plan_step(p.table, b, p.lengths[b], p.num_tokens);
    if (plan.faults != 0 && blockIdx.x == 0 && threadIdx.x == 0)
      atomicOr(p.status + b, plan.faults);
    const bool runs = plan.active && !plan.refused;
    if (runs && plan.read != kNoBlock)
      copy_tile_in(states, pool + plan.read * p.block_stride, state_bytes);
    else if (runs)
      for (int64_t v = threadIdx.x; v < state_bytes / 16; v += kConvThreads)
        reinterpret_cast<uint4*>(states)[v] = uint4{};
    ptx::wait_for_copies();
    __syncthreads();

#pragma unroll 1  // two channels at once would spill
    for (int c = threadIdx.x; c < channels; c += kConvThreads) {
      if (runs) {
        convolve_channel(x, states, p, first, c);
      } else {
        const float value = plan.refused ? __int_as_float(0x7fc00000) : 0.0f;
        for (int t = 0; t < p.num_tokens; ++t) x[c * p.num_tokens + t] = rounded<X>(value);
      }
    }
    __syncthreads();

    copy_tile_out(static_cast<X*>(p.output) + row, x, x_bytes);
#pragma unroll
    for (int i = 0; i < kMaxStepTokens; ++i)
      if (i < p.num_tokens && plan.write[i] != kNoBlock)
        copy_tile_out(pool + plan.write[i] * p.block_stride, states + i * kConvTile * depth,
                      state_bytes);
    __syncthreads();  // the tile is free again
  }
}

}  // namespace switchyard::cuda
