// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/linear_attention.h -- public: decode steps of linear attention whose states
// live in blocks of a cache: a causal convolution and the gated delta rule.
//
// Letters: B sequences; n tokens of each in this step, drafts included; L the length of a sequence
// including the first token of the step; S tokens per block; D channels; w width of the
// convolution. A *slot* is a column of the block map, and slot s of sequence b holds the id of the
// block for tokens [s S, (s + 1) S).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "switchyard/backend.h"
#include "switchyard/error.h"
#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

/// A tensor with gaps: element i of dimension d stands i * strides[d] elements from the first. A
/// plain tensor is one without gaps.
template <class Void>
struct BasicStridedTensor : BasicTensor<Void> {
  std::array<int64_t, Shape::kMaxRank> strides{};  // elements; beyond the rank: 0

  BasicStridedTensor() = default;
  BasicStridedTensor(const BasicTensor<Void>& t, std::array<int64_t, Shape::kMaxRank> by)
      : BasicTensor<Void>(t), strides(by) {}
  BasicStridedTensor(const BasicTensor<Void>& t)  // NOLINT: a plain tensor is one, too
      : BasicTensor<Void>(t) {
    int64_t stride = 1;
    for (int d = t.shape.rank() - 1; d >= 0; --d) {
      strides[static_cast<size_t>(d)] = stride;
      stride *= t.shape[d];
    }
  }
  template <class Other>
  requires std::is_const_v<Void> && std::is_same_v<Other, void> BasicStridedTensor(
      const BasicTensor<Other>& t)
      : BasicStridedTensor(BasicTensor<Void>(t)) {}
  template <class Other>
  requires std::is_const_v<Void> && std::is_same_v<Other, void> BasicStridedTensor(
      const BasicStridedTensor<Other>& t)
      : BasicTensor<Void>(t), strides(t.strides) {}

  int64_t stride(int d) const { return strides[static_cast<size_t>(d)]; }
};

using StridedTensor = BasicStridedTensor<void>;
using ConstStridedTensor = BasicStridedTensor<const void>;

/// What a sequence's status word holds: the bits of every bound that it crossed, 0 if none.
enum class StateFault : int32_t {
  None = 0,
  ReadSlot = 1,     // the slot to read is at or past num_slots
  ReadBlock = 2,    // the block to read is outside [first_block, num_blocks)
  WriteSlot = 4,    // the slot to write, of any token, is at or past num_slots
  WriteBlock = 8,   // the block to write, of any token, is outside [first_block, num_blocks)
  PrefillRows = 16  // prefill: rows of the sequence outside x, or ending before they begin
};

/// Where the states of B sequences stand.
///
/// Read slot (L - 2) / S, rounded down; write slot of token i (L - 1) / S + i: one block per token,
/// so that every accepted prefix of a draft can be resumed. L >= 2 reads a state; L = 1 begins at
/// zero and reads none; L <= 0 is no sequence: nothing of it is read or written, its output is 0.
///
/// One guard for every operation. No table entry at or past num_slots is read, and no block outside
/// [first_block, num_blocks) is read or written, whatever lengths and ids say. A refused write
/// leaves that token's state unwritten, and the outputs exact: they need no write. A refused read
/// fills the sequence's output with NaN and writes no state. Other sequences do not notice. Both
/// are noted in the sequence's status word.
///
/// Blocks that are written belong to one sequence alone; blocks that are only read may be shared. A
/// sequence may read and write the same block: every read comes before the first write.
struct StateMap {
  ConstTensor sequence_lengths{};  // i32 [B]: L
  ConstTensor block_map{};         // i32 [B, num_slots]: block ids, or the view of a wider table
  int64_t num_slots = 0;           // bound of a slot, >= 1
  int64_t row_stride = 0;    // elements between rows of block_map, >= num_slots; equal: no gaps
  int64_t block_tokens = 0;  // S, >= 1
  int64_t first_block = 1;   // the lowest valid id: 1 where block 0 is padding, or 0
};

enum class ConvActivation : uint8_t { None, Silu };

/// "none" and "" are None; "silu" and "swish" are Silu, as is "true". Throws Error(Unsupported) for
/// any other, with the names.
ConvActivation conv_activation_from(std::string_view name);

/// One step of a causal convolution. With u = the w - 1 values of the read block, then x:
///
///     output[b, c, t] = act(bias[c] + sum over j of weight[c, j] * u[c, t + j])
///     state after token i = u[c, i + 1 ... i + w - 1], to the write block of token i
///
/// fp32, one rounding to the output. x is rounded to the state's dtype first.
struct ConvDecode {
  Tensor output{};        // out  like x; may be x itself
  ConstTensor x{};        // in   bf16 or f32 [B, D], or [B, D, n] with n of 1 to 4
  StridedTensor state{};  // in/out  bf16 or f32 [num_blocks, D, w - 1]; gaps between blocks only
  ConstTensor weight{};   // in   f32 [D, w], w of 2 to 6
  ConstTensor bias{};     // in   f32 [D]; absent: none
  ConvActivation activation = ConvActivation::None;
  StateMap map{};
  CUstream_st* stream = nullptr;  // CUDA: work is enqueued here. CPU: ignored, work runs at once
};

/// The states that a convolution over whole prompts leaves behind: for each new token that is the
/// last of its block or of its sequence, the w - 1 values that end with it, to slot token / S.
///
/// Sequence b has prefix_lengths[b] tokens that were there before and the rows
/// [starts[b], starts[b + 1]) of x, all of one dtype as x. Values before the first row are those of
/// the block at slot (prefix - 1) / S, or 0 without a prefix; it is read only if they are needed.
struct ConvPrefillStates {
  StridedTensor state{};         // in/out  as of ConvDecode
  ConstTensor x{};               // in   bf16 or f32 [T, D]
  ConstTensor starts{};          // in   i32 [B + 1], ascending within [0, T]
  ConstTensor prefix_lengths{};  // in   i32 [B]; below 0: no sequence
  StateMap map{};                // sequence_lengths is not used and may be absent
  CUstream_st* stream = nullptr;
};

/// One step of the gated delta rule. Value head h uses key head h / (Hv / Hk); per token, all fp32:
///
///     with l2_normalize: q = q / sqrt(sum q^2 + 1e-6), k likewise
///     h = h * exp(g);   d = beta * (v - h k);   h = h + d k^T;   output = h (q * scale)
///     h after token i, to its write block
struct DeltaRuleDecode {
  Tensor output{};         // out  bf16 or f32 [B, n, Hv, Dv]
  ConstStridedTensor q{};  // in   [B, n, Hk, Dk], n of 1 to 4; bf16 or f32, q, k and v alike
  ConstStridedTensor k{};  // in   [B, n, Hk, Dk]; q, k, v: any strides but 1 in the last dimension
  ConstStridedTensor v{};  // in   [B, n, Hv, Dv]; Hv a multiple of Hk
  ConstTensor g{};         // in   bf16 or f32 [B, n, Hv], logarithms of the decay
  ConstTensor beta{};      // in   bf16 or f32 [B, n, Hv], or [B, n, Hv, Dv]: one per value
  /// in/out  f32 [num_blocks, Hv, Dv, Dk], value first; gaps between blocks only. Dk a multiple of
  /// 4, at most 256.
  StridedTensor state{};
  bool l2_normalize = false;
  std::optional<float> scale{};  // absent: 1 / sqrt(Dk)
  StateMap map{};
  CUstream_st* stream = nullptr;
};

/// The decode operations of one backend with the status words of their sequences.
///
/// Each call checks its arguments, enqueues one kernel and returns: no allocation, no waiting, so a
/// CUDA graph can capture it and replay it with other lengths, ids and values. Views stay alive and
/// unchanged until the work is done. One object serves one thread at a time, and one stream
/// or streams that wait for each other.
///
/// Addresses, blocks and their distances must be multiples of 16 bytes for x, output, state and
/// weight of the convolutions, and for the state of the delta rule; D is a multiple of 8.
///
/// Every call throws Error: ShapeMismatch, Misaligned or Unsupported for arguments that break a
/// rule, before anything is enqueued.
///
/// Source: the paged decode kernels of Qwen3-Next and its kin, whose bounds they missed by one
/// block; the formulas are those of transformers' torch_causal_conv1d_update and
/// torch_recurrent_gated_delta_rule.
class LinearAttention {
 public:
  /// Status words for at most `max_batch` sequences, all good. Allocates; waits for the device.
  static std::unique_ptr<LinearAttention> create(std::shared_ptr<Backend> backend,
                                                 int64_t max_batch);
  virtual ~LinearAttention() = default;

  /// Moves w - 1 values per channel in, n (w - 1) out, x and output once.
  virtual void conv_decode(const ConvDecode& step) = 0;
  /// Moves the states it writes, twice at most.
  virtual void conv_prefill_states(const ConvPrefillStates& step) = 0;
  /// Moves Hv Dv Dk floats per sequence in, n times as many out.
  virtual void delta_rule_decode(const DeltaRuleDecode& step) = 0;

  /// i32 [max_batch] in memory of the backend's device: bits of StateFault, added up over all calls
  /// since the last wait. Sequence b of every call shares word b.
  virtual ConstTensor status() const = 0;

  /// Waits until the work on `stream` is done; the only call that does. Throws Error(BadState) with
  /// the first sequence at fault and the bounds it crossed. All words are good again afterwards.
  virtual void wait(CUstream_st* stream = nullptr) = 0;
  /// The same without throwing: the words as they were.
  virtual std::vector<int32_t> wait_status(CUstream_st* stream = nullptr) = 0;
};

}  // namespace switchyard
