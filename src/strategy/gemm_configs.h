// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/gemm_configs.h -- the only list of compiled configurations of Hopper's grouped GEMM,
// and the pure choice between them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "base/require.h"

namespace switchyard {

// What src and weights are made of. F8E4m3: both have scales, which a stage's products are
// multiplied by before they are added.
enum class OperandKind { Bf16, F8E4m3 };
// How operands come to shared memory: the copy engine brings tiles of both, asked by a warpgroup of
// its own; or every thread copies 16 bytes at a time, and multiplies between copies.
enum class ProducerKind { TmaRows, EveryThread };

constexpr int element_bytes(OperandKind kind) {
  return kind == OperandKind::Bf16 ? 2 : 1;
}
// What a stage holds of a row's inner dimension: one swizzled row of shared memory. Memory gives
// whole rows of 256 bytes to loads faster than the copy engine's boxes of 128 (decision 60).
inline constexpr int kStageRowBytes = 128, kStreamRowBytes = 256;

struct GemmConfig {
  int rows, weights;        // of a tile, at most: rows of src, rows of weights
  int stages;               // in flight
  int cluster_rows = 1;     // blocks side by side with the same weights
  int cluster_weights = 1;  // blocks side by side with the same rows: each loads a share for all
  OperandKind operands = OperandKind::Bf16;
  ProducerKind producer = ProducerKind::TmaRows;
  bool adds_chunks = false;  // of the inner dimension, where a GEMM has them
  // Two warpgroups multiply a tile each, in turns: one stores while the other multiplies. Else all
  // share a tile, 64 rows of weights each.
  bool ping_pong = false;
  // The instruction takes 64 rows of src, which are a warpgroup's, and 128 of weights, not 64 of
  // weights and any number of rows: a thread then has sums of two rows only.
  bool rows_first = false;

  bool operator==(const GemmConfig&) const = default;
  constexpr int cluster() const { return cluster_rows * cluster_weights; }
  constexpr bool scaled() const { return operands == OperandKind::F8E4m3; }
  constexpr bool streams() const { return producer == ProducerKind::EveryThread; }
  constexpr int row_bytes() const { return streams() ? kStreamRowBytes : kStageRowBytes; }
  constexpr int inner() const { return row_bytes() / element_bytes(operands); }
  constexpr int math_warpgroups() const {
    return ping_pong ? 2 : rows_first ? rows / 64 : weights / 64;
  }
  // Rows of weights that a warpgroup multiplies, 64 in an instruction.
  constexpr int warpgroup_weights() const { return ping_pong || rows_first ? weights : 64; }
  // What the rows of all tiles but an expert's last are a multiple of.
  constexpr int row_step() const { return rows_first ? 64 : 16; }
  constexpr int math_threads() const { return 128 * math_warpgroups(); }
  // A warp multiplies 16 rows of weights.
  constexpr int threads() const { return streams() ? 2 * weights : math_threads() + 128; }
  // Of which so many load: one is enough to ask the copy engine.
  constexpr int producer_threads() const { return streams() ? 0 : 1; }
  // One of a warpgroup's two buffers of output. While one warpgroup stores another multiplies, which
  // wants stages in flight more than few copies.
  constexpr int staging_bytes() const { return ping_pong || scaled() ? 4096 : 8192; }
  // The other warps of that warpgroup bring the scales of rows.
  constexpr int scale_threads() const { return scaled() ? 96 : 0; }
};

// A line is a kernel: CMake makes a file of each, src/cuda/grouped_gemm/kernel.cu.in.
inline constexpr std::array kGemmConfigs = {
    // Few rows per expert, bound by the bytes of the weights: small blocks, several to an SM, which
    // the hardware gives out as SMs become free.
    // A short inner dimension makes short blocks: the narrower, the better SMs share them.
    GemmConfig{8, 32, 4, 1, 1, OperandKind::Bf16, ProducerKind::EveryThread},
    GemmConfig{8, 64, 3, 1, 1, OperandKind::Bf16, ProducerKind::EveryThread},
    GemmConfig{32, 64, 3, 1, 1, OperandKind::Bf16, ProducerKind::EveryThread},
    // Somewhat more, or not all SMs: one block to an SM.
    GemmConfig{64, 128, 7},
    // One tile for an expert that has somewhat more.
    GemmConfig{128, 128, 5},
    // Many rows: the most reuse per byte that 64 Ki registers allow (128 sums per thread). Alone a
    // block would ask L2 for 48 KiB per 0.71 us, 9 TB/s over the card; two share a third of it.
    GemmConfig{256, 128, 4, 1, 2},
    // One tile for an expert of 105 to 192 rows: what bounds it is both, bytes and products, so that
    // neither waits for a tile to be stored.
    GemmConfig{192, 128, 5, 1, 2, OperandKind::Bf16, ProducerKind::TmaRows, false, true},
    // The router of many tokens, whose sums are those of router_logits.cuh.
    GemmConfig{128, 128, 5, 1, 1, OperandKind::Bf16, ProducerKind::TmaRows, true},
    // Of fp8, whose products of a stage are in registers beside the sums: few rows, and many, which
    // come first, so that a thread reads two scales of rows a stage and not one for every product.
    // 256 rows of weights: with a gate 128 columns, a group that Q128 gives a scale.
    GemmConfig{64, 128, 7, 1, 1, OperandKind::F8E4m3},
    GemmConfig{128, 256, 4, 1, 2, OperandKind::F8E4m3, ProducerKind::TmaRows, false, false, true},
};

// What a configuration is chosen by: known on the host before any row is.
struct GemmShape {
  int64_t num_experts = 0;  // local
  int64_t max_rows = 0;     // bound of the rows of all experts together
  int64_t n = 0, k = 0;     // weights [num_experts, n, k]
  int num_sms = 0;          // multiprocessors that the call may use; 0: all
  bool has_chunks = false;  // sums of chunks of k are added
  OperandKind operands = OperandKind::Bf16;
  bool gated = false;  // n is gate and up, which an activation makes one of
};

// The rule. Equal shapes give equal configurations. The order in which an inner dimension is summed
// does not depend on them, so neither do the bits.
GemmConfig choose_gemm_config(const GemmShape& shape);
// "256x128x64, 4 stages, cluster of 2": rows, weights, inner dimension.
std::string describe(const GemmConfig& config);

// Steps that one block of a cluster may have sent the other before that one has come to them: it is
// at most all stages ahead, a step each if the inner dimension is short, and one more is drawn.
inline constexpr int kSentSteps = 8;

// What a block does in a step.
struct GemmStep {
  int64_t first_row;  // of src and dst
  int num_rows;       // 0: no step is left
  int expert;
  int weights;  // tile of weights
};

// The shared memory of a block. A table of the steps before each expert follows it.
template <GemmConfig kConfig>
struct SharedStorage {
  // Steps that are loaded, one to a stage if the inner dimension is short, and the one multiplied.
  static constexpr int kStepSlots = kConfig.stages + 1;
  static_assert(kConfig.cluster() == 1 || kStepSlots < kSentSteps);
  static constexpr int kStageBytes = (kConfig.weights + kConfig.rows) * kStageRowBytes;

  uint8_t stages[kConfig.stages *
                 kStageBytes];  // each at a multiple of 1024 bytes, as swizzles want it
  uint8_t staging[kConfig.math_warpgroups() * 2 * kConfig.staging_bytes()];
  // Of scaled operands: a scale for each row of a stage, and for each of its rows of weights.
  static constexpr int kStageScales = kConfig.rows + kConfig.weights;
  float scales[kConfig.scaled() ? kConfig.stages * kStageScales : 1];
  uint64_t scales_full[kConfig.scaled() ? kConfig.stages : 1];
  GemmStep steps[kStepSlots];
  uint64_t full[kConfig.stages], empty[kConfig.stages];
  uint64_t step_full[kStepSlots];
  uint64_t turn[2];                // of the warpgroup that multiplies next
  uint64_t step_sent[kSentSteps];  // the other block of a cluster has sent a step
  int32_t sent_steps[kSentSteps];
  int32_t warp_sums[32];

  constexpr uint8_t* weights(int i) { return stages + i * kStageBytes; }
  constexpr uint8_t* rows(int i) { return weights(i) + kConfig.weights * kStageRowBytes; }
  constexpr float* stage_scales(int i) { return scales + i * kStageScales; }
  // Two buffers of output for each warpgroup.
  constexpr uint8_t* outputs() { return staging; }
  // [E + 1] steps of the experts before e.
  constexpr int32_t* first_step() { return reinterpret_cast<int32_t*>(this + 1); }
};

// The shared memory of a block that streams.
template <GemmConfig kConfig>
struct StreamStorage {
  static constexpr int kStageBytes = (kConfig.weights + kConfig.rows) * kConfig.row_bytes();

  uint8_t stages[kConfig.stages * kStageBytes];  // at a multiple of 1024 bytes
  // The buffers of output take the place of stages.
  static_assert(kConfig.stages * kStageBytes >=
                kConfig.math_warpgroups() * 2 * kConfig.staging_bytes());

  constexpr uint8_t* weights(int i) { return stages + i * kStageBytes; }
  constexpr uint8_t* rows(int i) { return weights(i) + kConfig.weights * kConfig.row_bytes(); }
};

template <GemmConfig kConfig>
using StorageOf =
    std::conditional_t<kConfig.streams(), StreamStorage<kConfig>, SharedStorage<kConfig>>;

// Calls f.operator()<config>() for the compiled configuration equal to `wanted`.
template <class F>
constexpr void visit_gemm_config(const GemmConfig& wanted, F&& f) {
  const bool found = [&]<size_t... I>(std::index_sequence<I...>) {
    return ((wanted == kGemmConfigs[I] && (f.template operator()<kGemmConfigs[I]>(), true)) || ...);
  }
  (std::make_index_sequence<kGemmConfigs.size()>{});
  SWITCHYARD_REQUIRE(found, Unsupported, "grouped_gemm: configuration ", describe(wanted),
                     ", is not compiled. Add it to strategy/gemm_configs.h.");
}

constexpr int64_t shared_bytes(const GemmConfig& config, int64_t num_experts) {
  int64_t bytes = config.streams() ? 0 : (num_experts + 1) * int64_t{sizeof(int32_t)};
  visit_gemm_config(config, [&]<GemmConfig kConfig>() { bytes += sizeof(StorageOf<kConfig>); });
  return bytes;
}
inline constexpr int64_t kSharedBytesPerBlock = int64_t{227} * 1024;  // sm_90; programming guide
constexpr bool config_fits(const GemmConfig& config, int64_t num_experts) {
  return shared_bytes(config, num_experts) <= kSharedBytesPerBlock;
}

}  // namespace switchyard
