// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/conv_decode.cuh -- one step of a causal convolution over paged states.
//
// A warp takes a tile of channels of one sequence after the other, by itself: 8 channels to a lane,
// or 4 where an element has 32 bits. The tile of x and the tile of the state are contiguous in
// memory, so they come and go as 16-byte vectors, through shared memory, where each lane finds the
// vectors of its channels. While a tile is on its way and while it is computed, the next sequence's
// block is looked up and its tile asked for. The warps of a block share the tile's weights, in
// shared memory. Width and tokens are template parameters: a channel takes some 40 instructions.
// Which block of the pool: plan/state_slots.h, the same answer for every lane, so nothing
// diverges. All reads of a tile end before its first write, and tiles are disjoint, so a sequence
// may read and write one block, and x may be the output.
// Memory bound: x, output, w - 1 values of each channel in and n (w - 1) out, once.
#pragma once

#include <type_traits>

#include "cuda/activation.cuh"
#include "cuda/launch.h"
#include "cuda/numbers.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "plan/state_slots.h"

namespace switchyard::cuda {

inline constexpr int kConvThreads = 128;
inline constexpr int kConvWarps = kConvThreads / 32;

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
  int batch, dim;
  bool silu;
};

template <class X, class S, int kWidth, int kTokens>
struct ConvTile {
  static constexpr int kDepth = kWidth - 1;
  static constexpr int kLaneChannels = sizeof(X) + sizeof(S) == 4 ? 8 : 4;
  static constexpr int kChannels = 32 * kLaneChannels;
  static constexpr int kLaneX = kLaneChannels * kTokens, kLaneStates = kLaneChannels * kDepth;
  static constexpr int kXBytes = 32 * kLaneX * static_cast<int>(sizeof(X));
  static constexpr int kStateBytes = 32 * kLaneStates * static_cast<int>(sizeof(S));

  // x becomes the output, the state that after each token, in place.
  struct alignas(16) Stage {
    unsigned char x[kXBytes];          // X [channels, tokens]
    unsigned char state[kStateBytes];  // S [channels, depth]
  };
  // By lane, as its channel of a tile: of 33, so that no two of a channel's values share a bank
  // when they are stored.
  struct Shared {
    Stage stages[kConvWarps][2];
    float weights[kWidth][kLaneChannels][33], bias[kLaneChannels][33];
  };
  // As many as registers and shared memory allow.
  static constexpr int kRegisterBlocks = kTokens == 1                 ? 8
                                         : kTokens == 2               ? (kLaneChannels == 8 ? 6 : 5)
                                         : kLaneX + kLaneStates <= 64 ? 4
                                                                      : 3;
  static constexpr int kSharedBlocks = 220 * 1024 / static_cast<int>(sizeof(Shared) + 1024);
  static constexpr int kBlocksPerSm =
      kSharedBlocks < kRegisterBlocks ? kSharedBlocks : kRegisterBlocks;
};

// What a warp keeps of a plan while its tile is on its way. Ids have 32 bits.
template <int kTokens>
struct ConvPlan {
  bool runs, reads, refused;
  int32_t write[kTokens];  // kNoBlock: not written
};

// `bytes`, at most kBytes and a multiple of 16, by a warp.
template <int kBytes>
__device__ __forceinline__ void copy_tile_in(void* shared, const void* global, int bytes) {
#pragma unroll
  for (int first = 0; first < kBytes / 16; first += 32) {
    const int v = first + static_cast<int>(threadIdx.x) % 32;
    if (v < bytes / 16)
      ptx::cp_async_16(static_cast<uint4*>(shared) + v, static_cast<const uint4*>(global) + v);
  }
}
template <int kBytes, bool kStream>
__device__ __forceinline__ void copy_tile_out(void* global, const void* shared, int bytes) {
#pragma unroll
  for (int first = 0; first < kBytes / 16; first += 32) {
    const int v = first + static_cast<int>(threadIdx.x) % 32;
    if (v >= bytes / 16) continue;
    const uint4 value = static_cast<const uint4*>(shared)[v];
    if constexpr (kStream)
      __stcs(static_cast<uint4*>(global) + v, value);
    else
      static_cast<uint4*>(global)[v] = value;
  }
}

// A lane's kCount elements of T, packed in words.
template <class T, int kCount>
struct Elements {
  static constexpr int kWords = kCount * static_cast<int>(sizeof(T)) / 4;
  // A lane's share of a tile, as the widest vectors that all lanes' shares consist of.
  using Vector = std::conditional_t<kWords % 4 == 0, uint4, uint2>;
  static constexpr int kVectorWords = static_cast<int>(sizeof(Vector)) / 4;
  uint32_t words[kWords];

  __device__ __forceinline__ void load(const void* shared, int lane) {
#pragma unroll
    for (int i = 0; i < kWords / kVectorWords; ++i) {
      const Vector v = static_cast<const Vector*>(shared)[lane * (kWords / kVectorWords) + i];
      words[i * kVectorWords] = v.x, words[i * kVectorWords + 1] = v.y;
      if constexpr (kVectorWords == 4) words[i * 4 + 2] = v.z, words[i * 4 + 3] = v.w;
    }
  }
  __device__ __forceinline__ void store(void* shared, int lane) const {
#pragma unroll
    for (int i = 0; i < kWords / kVectorWords; ++i) {
      Vector v;
      v.x = words[i * kVectorWords], v.y = words[i * kVectorWords + 1];
      if constexpr (kVectorWords == 4) v.z = words[i * 4 + 2], v.w = words[i * 4 + 3];
      static_cast<Vector*>(shared)[lane * (kWords / kVectorWords) + i] = v;
    }
  }
  __device__ __forceinline__ float operator[](int e) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(words[e]);
    const uint32_t word = words[e / 2];
    return __uint_as_float(e % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
  // Elements e in order: of two that share a word, the first sets all of it.
  __device__ __forceinline__ void set(int e, T value) {
    if constexpr (sizeof(T) == 4) {
      words[e] = __float_as_uint(to_float(value));
    } else {
      const uint32_t bits = __bfloat16_as_ushort(value);
      words[e / 2] = e % 2 == 0 ? bits : words[e / 2] | bits << 16;
    }
  }
};

// The weights of a tile, by the whole block. A barrier makes them visible.
template <class Tile, int kWidth>
__device__ __forceinline__ void load_weights(typename Tile::Shared& shared,
                                             const ConvDecodeParams& p, int64_t first,
                                             int channels) {
  constexpr int kLaneChannels = Tile::kLaneChannels;
#pragma unroll
  for (int begin = 0; begin < Tile::kChannels * kWidth; begin += kConvThreads) {
    const int i = begin + static_cast<int>(threadIdx.x), c = i / kWidth;
    if (c < channels)
      shared.weights[i % kWidth][c % kLaneChannels][c / kLaneChannels] =
          __ldg(p.weight + first * kWidth + i);
  }
#pragma unroll
  for (int begin = 0; begin < Tile::kChannels; begin += kConvThreads) {
    const int c = begin + static_cast<int>(threadIdx.x);
    if (c < channels)
      shared.bias[c % kLaneChannels][c / kLaneChannels] = p.bias ? __ldg(p.bias + first + c) : 0;
  }
}

template <class X, class S, int kWidth, int kTokens>
__global__ __launch_bounds__(
    kConvThreads,
    (ConvTile<X, S, kWidth, kTokens>::kBlocksPerSm)) void conv_decode_kernel(const __grid_constant__
                                                                                 ConvDecodeParams
                                                                                     p) {
  using Tile = ConvTile<X, S, kWidth, kTokens>;
  constexpr int kDepth = Tile::kDepth, kLaneChannels = Tile::kLaneChannels;
  __shared__ typename Tile::Shared shared;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = int64_t{blockIdx.x} * Tile::kChannels;
  const int channels = static_cast<int>(min(int64_t{Tile::kChannels}, p.dim - first));
  const int x_bytes = channels * kTokens * static_cast<int>(sizeof(X));
  const int state_bytes = channels * kDepth * static_cast<int>(sizeof(S));
  auto* pool = static_cast<S*>(p.state) + first * kDepth;
  const auto row_of = [&](int64_t b) { return (b * p.dim + first) * kTokens; };

  const auto ask_for = [&](int64_t b, typename Tile::Stage& stage) {
    ConvPlan<kTokens> kept{};
    if (b < p.batch) {
      copy_tile_in<Tile::kXBytes>(stage.x, static_cast<const X*>(p.x) + row_of(b), x_bytes);
      const StepPlan plan = plan_step(p.table, b, p.lengths[b], kTokens);
      kept.runs = plan.active && !plan.refused;
      kept.refused = plan.refused;
      kept.reads = kept.runs && plan.read != kNoBlock;
      if (kept.reads)
        copy_tile_in<Tile::kStateBytes>(stage.state, pool + plan.read * p.block_stride,
                                        state_bytes);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) kept.write[t] = static_cast<int32_t>(plan.write[t]);
      if (plan.faults != 0 && blockIdx.x == 0 && lane == 0) atomicOr(p.status + b, plan.faults);
    }
    ptx::cp_async_commit_group();
    return kept;
  };

  wait_for_predecessor();
  allow_successor();
  const int64_t step = int64_t{gridDim.y} * kConvWarps;
  int64_t b = int64_t{blockIdx.y} * kConvWarps + warp;
  int at = 0;
  ConvPlan<kTokens> plan = ask_for(b, shared.stages[warp][0]);
  load_weights<Tile, kWidth>(shared, p, first, channels);
  __syncthreads();

#pragma unroll 1
  for (; b < p.batch; b += step, at ^= 1) {
    const ConvPlan<kTokens> next = ask_for(b + step, shared.stages[warp][at ^ 1]);
    ptx::cp_async_wait_group<1>();
    __syncwarp();

    typename Tile::Stage& stage = shared.stages[warp][at];
    const bool has_channels = lane * kLaneChannels < channels;
    Elements<S, Tile::kLaneStates> old{};
    Elements<X, Tile::kLaneX> x{};
    if (has_channels) x.load(stage.x, lane);
    if (has_channels && plan.reads) old.load(stage.state, lane);
    // What the weights of a channel meet: its state, then its tokens as a state keeps them.
    float tokens[kLaneChannels][kTokens];
#pragma unroll
    for (int c = 0; c < kLaneChannels; ++c)
#pragma unroll
      for (int t = 0; t < kTokens; ++t) tokens[c][t] = to_float(rounded<S>(x[c * kTokens + t]));
    const auto u = [&](int c, int k) {
      return k < kDepth ? old[c * kDepth + k] : tokens[c][k - kDepth];
    };

    if (plan.runs) {
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) {
        float weights[kWidth];
#pragma unroll
        for (int k = 0; k < kWidth; ++k) weights[k] = shared.weights[k][c][lane];
        const float bias = shared.bias[c][lane];
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          float sum = bias;
#pragma unroll
          for (int k = 0; k < kWidth; ++k)  // rounds twice, as on the CPU
            sum = __fadd_rn(sum, __fmul_rn(weights[k], u(c, t + k)));
          x.set(c * kTokens + t, rounded<X>(p.silu ? sum * sigmoid(sum) : sum));
        }
      }
    } else {
      const float value = plan.refused ? __int_as_float(0x7fc00000) : 0.0f;
#pragma unroll
      for (int i = 0; i < Tile::kLaneX; ++i) x.set(i, rounded<X>(value));
    }
    if (has_channels) x.store(stage.x, lane);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      Elements<S, Tile::kLaneStates> now;
#pragma unroll
      for (int i = 0; i < Tile::kLaneStates; ++i)
        now.set(i, exact<S>(u(i / kDepth, t + 1 + i % kDepth)));
      if (has_channels) now.store(stage.state, lane);
      __syncwarp();
      if (t == 0)
        copy_tile_out<Tile::kXBytes, false>(static_cast<X*>(p.output) + row_of(b), stage.x,
                                            x_bytes);
      if (plan.write[t] != kNoBlock)
        copy_tile_out<Tile::kStateBytes, true>(pool + plan.write[t] * p.block_stride, stage.state,
                                               state_bytes);
      __syncwarp();  // the stage is free again
    }
    plan = next;
  }
}

}  // namespace switchyard::cuda
