// src/cuda/peer_rows.cu
#include "cuda/peer_rows.cuh"

#include <algorithm>

#include "base/checked.h"
#include "cuda/ops.h"

namespace switchyard::cuda {
namespace {

// 64 KiB on their way per block: two blocks on each of 132 multiprocessors keep a link full.
// measured: 2x H100, pushes of 64 MiB: 347 GB/s by 64 blocks of 512 threads, 365 by 264.
constexpr int64_t kMaxPushBlocks = 264;
// Below as many parts of 8 loads a lane, parts of 2 use more multiprocessors.
constexpr int64_t kFewPushParts = kMaxPushBlocks * kPushThreads / 32;
constexpr int64_t kMaxBlocksOfRows = 4096;  // as in sum_rows.cu

int64_t blocks_within(const PeerWindow& window, int64_t wanted, int64_t most) {
  return std::min(wanted, window.max_blocks > 0 ? window.max_blocks : most);
}

// Blocks along x for rows, along y for pieces of a row.
dim3 grid_of_rows(int64_t num_rows, int64_t vectors_per_row) {
  return dim3(static_cast<unsigned>(std::min(num_rows, kMaxBlocksOfRows)),
              static_cast<unsigned>(ceil_div(vectors_per_row, int64_t{kSumThreads})));
}

// A warp for each piece of a row, within window.max_blocks.
int64_t blocks_of_pieces(const PeerWindow& window, int64_t num_rows, int64_t vectors_per_row) {
  const int64_t pieces = num_rows * ceil_div(vectors_per_row, int64_t{32 * kPieceVectors});
  return blocks_within(window, ceil_div(pieces, int64_t{kPushThreads / 32}), kMaxPushBlocks);
}

int64_t vectors_of(const char* op, ConstTensor rows) {
  SWITCHYARD_REQUIRE(rows.dim(1) % 8 == 0, Misaligned, op, ": H=", rows.dim(1),
                     ", need a multiple of 8 (rows move as 16-byte vectors of bf16).");
  return rows.dim(1) * dtype_bytes(rows.dtype) / 16;
}

template <int kLoads>
void push_rows_with(const PeerWindow& window, PushRowsParams params, cudaStream_t stream) {
  params.pieces_per_row = static_cast<int>(ceil_div(params.vectors_per_row, 32 * kLoads));
  const int64_t parts = ceil_div(int64_t{params.block}, int64_t{kSlotRows}) +
                        int64_t{params.num_tokens} * params.pieces_per_row;
  launch(push_rows_kernel<kLoads>,
         blocks_within(window, ceil_div(parts, int64_t{kPushThreads / 32}), kMaxPushBlocks),
         kPushThreads, 0, stream, params);
}

}  // namespace

void push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
               cudaStream_t stream) {
  const bool moves = push.route != PeerRoute::Nobody;
  // 0: no row is copied.
  const int64_t vectors = moves && !push.stand_there() ? vectors_of("push_rows", push.rows) : 0;
  const PushRowsParams params{view_of(window),
                              moves ? push.dst_rows.as<uint4>() : nullptr,
                              push.dst_ids.as<int32_t>(),
                              moves ? push.dst_weights.as<float>() : nullptr,
                              push.return_row.as<int32_t>(),
                              moves ? push.rows.as<uint4>() : nullptr,
                              push.ids.as<int32_t>(),
                              moves ? push.weights.as<float>() : nullptr,
                              status.as<int32_t>(),
                              push.num_experts,
                              experts_of_rank(push.num_experts, window.num_ranks),
                              static_cast<int>(moves ? window.rank * push.block : 0),
                              static_cast<int>(push.ids.dim(0)),
                              static_cast<int>(push.ids.dim(1)),
                              static_cast<int>(push.block),
                              static_cast<int>(vectors),
                              0,
                              push.route};
  if (push.ids.dim(0) * ceil_div(vectors, int64_t{256}) < kFewPushParts)
    push_rows_with<2>(window, params, stream);
  else
    push_rows_with<8>(window, params, stream);
}

void pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial, ConstTensor return_row,
               const SlotSums& own, const Addend& addend, ConstTensor status, cudaStream_t stream) {
  const int64_t vectors = vectors_of("pull_sums", partial);
  const PullSumsParams params{view_of(window),           sums_out(dst, addend),
                              partial.as<uint4>(),       return_row.as<int32_t>(),
                              status.as<int32_t>(),      static_cast<int>(dst.dim(0)),
                              static_cast<int>(vectors), view_of(own)};
  const dim3 grid = grid_of_rows(dst.dim(0), vectors);
  if (own.rows.present())
    launch(pull_sums_kernel<2, true>, grid, kSumThreads, 0, stream, params);
  else if (window.max_blocks > 0)
    launch(pull_sums_in_pieces_kernel, blocks_of_pieces(window, dst.dim(0), vectors), kPushThreads,
           0, stream, params);
  else
    launch(pull_sums_kernel<kSumLoads, false>, grid, kSumThreads, 0, stream, params);
}

void pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first, int num,
                 ConstTensor status, cudaStream_t stream) {
  const int64_t vectors = vectors_of("pull_slices", dst);
  const PullSlicesParams params{view_of(window),
                                dst.as<uint4>(),
                                slice.as<uint4>(),
                                status.as<int32_t>(),
                                first,
                                static_cast<int>(dst.dim(0)),
                                static_cast<int>(ceil_div(dst.dim(0), int64_t{num})),
                                static_cast<int>(vectors)};
  launch(pull_slices_kernel, blocks_of_pieces(window, dst.dim(0), vectors), kPushThreads, 0, stream,
         params);
}

}  // namespace switchyard::cuda
