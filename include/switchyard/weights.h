// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/weights.h -- public: the weights of one layer, as views.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "switchyard/backend.h"
#include "switchyard/block_scales.h"
#include "switchyard/config.h"
#include "switchyard/tensor.h"

namespace [[gnu::visibility("default")]] switchyard {

/// Called while weights are read or copied, on the calling thread; bytes done of all bytes.
using Progress = std::function<void(int64_t done, int64_t total)>;

/// How gate and up stand in W1. There is no default: most checkpoints are GateUp, some inference
/// engines store UpGate, and the wrong one gives plausible numbers.
enum class GateUpOrder {
  Unset,        // refused for a gated activation
  GateUp,       // rows [0, I) are gate, rows [I, 2I) are up
  UpGate,       // rows [0, I) are up, rows [I, 2I) are gate
  Interleaved,  // row 2i is gate, row 2i + 1 is up (gpt-oss); of routed experts, see arrange_weights
};

/// The routed experts that this rank owns: global ids [first, first + E_local), E_local =
/// experts_of_rank(E, P). Where P does not divide E, the places of ids from E on hold anything.
struct ExpertWeights {
  GateUpOrder order = GateUpOrder::Unset;
  // H here is MoeConfig::routed_hidden().
  // bf16 or f8_e4m3 [E_local, 2I, H]; [E_local, I, H] when the activation has no gate
  ConstTensor w1{};
  ConstTensor w2{};  // as w1 [E_local, H, I]
  ConstTensor b1{};  // f32 or bf16 [E_local, 2I], in the order of w1; absent without expert_bias
  ConstTensor b2{};  // f32 or bf16 [E_local, H]; absent without expert_bias
  /// w1 is [E_local, H, 2I] and w2 [E_local, I, H], as gpt-oss and Llama-4 store them.
  bool transposed = false;
  /// Of f8_e4m3, absent for bf16. A block has any rows, and all columns or a multiple of 128. Such
  /// experts are neither transposed nor Interleaved.
  BlockScales w1_scales{}, w2_scales{};
  /// Of a layer with a placement (LayerOptions::placement): E_local is this, the rank's weight slots,
  /// S / P of them, and they stand in their order. Else 0.
  int64_t num_slots = 0;

  bool operator==(const ExpertWeights&) const = default;
};

/// Whether kernels read these as they are: rows of GateUp or UpGate, biases in f32.
bool is_arranged(const ExpertWeights& weights);

/// What routed experts are made of: bf16, or f8_e4m3 with scales of these blocks.
struct ExpertFormat {
  DType dtype = DType::Bf16;
  ScaleBlock w1{}, w2{};
  int64_t num_slots = 0;  // as ExpertWeights says

  bool operator==(const ExpertFormat&) const = default;
};
ExpertFormat format_of(const ExpertWeights& weights);
/// f8_e4m3 in blocks of 128 x 128, as most are published; of W1 in as many rows as no block has both
/// gate and up, the greatest common divisor of 128 and I.
ExpertFormat fp8_blocks(const MoeConfig& config);

struct RouterWeights {
  // [MoeConfig::router_rows(), H], bf16, or f32 with router_f32; absent if the caller always brings
  // ids and weights
  ConstTensor weight{};
  ConstTensor bias{};             // f32 [router_rows()]; absent without router_bias
  ConstTensor correction_bias{};  // f32 [num_choices()]; absent without gate.correction_bias
  ConstTensor expert_scale{};     // f32 [router_rows()]; absent without gate.expert_scale
  ConstTensor token_experts{};    // i32 [V, K] global ids; absent without gate.vocabulary

  bool operator==(const RouterWeights&) const = default;
};

/// What MoeConfig::path says; absent where it has no such part.
struct RoutedPathWeights {
  ConstTensor input_norm{};   // f32 [H]
  ConstTensor down{};         // bf16 [L, H]
  ConstTensor output_norm{};  // f32 [L], or [H] without a latent path
  ConstTensor up{};           // bf16 [H, L]

  bool operator==(const RoutedPathWeights&) const = default;
};

struct SharedExpertWeights {
  GateUpOrder order = GateUpOrder::Unset;
  // S experts that the gate weighs stand one after the other: [S, 2 Is / S, H], [S, H, Is / S].
  ConstTensor w1{};    // bf16 [2 Is, H]
  ConstTensor w2{};    // bf16 [H, Is]
  ConstTensor gate{};  // bf16 [1, H]; absent unless sigmoid_gated

  bool operator==(const SharedExpertWeights&) const = default;
};

/// Views over memory of the layer's device, 16-byte aligned, row-major. Backends read them in
/// place (borrowed): they must outlive the layer and must not change while a forward runs. Routed
/// experts that are not arranged are copied once, when the layer is made: see arrange_weights.
/// `owner`, when set, keeps them alive for as long as the layer holds this struct.
struct LayerWeights {
  ExpertWeights experts;
  RouterWeights router;
  SharedExpertWeights shared;
  RoutedPathWeights path;
  std::shared_ptr<const void> owner;

  bool operator==(const LayerWeights&) const = default;
};

/// Throws Error(ShapeMismatch or Misaligned) unless shapes, dtypes, order and alignment are those
/// of `config` on a rank that has experts_of_rank(E, num_ranks) experts, and all are on `device`.
void validate(const LayerWeights& weights, const MoeConfig& config, int num_ranks,
              DeviceKind device = DeviceKind::Cpu);
/// The routed experts alone; what make_executor checks.
void validate(const ExpertWeights& weights, const MoeConfig& config, int num_ranks,
              DeviceKind device = DeviceKind::Cpu);

/// The same layer with arranged experts: those of `weights`, or copies in memory of the backend's
/// device, which the result owns; each tensor that needs none stays a view of what was given, whose
/// owner is kept. A caller who drops what was given arranges before making layers. Waits.
/// Throws Error: as validate; Unsupported with the bytes when the device has no such memory free.
LayerWeights arrange_weights(const LayerWeights& weights, const MoeConfig& config, int num_ranks,
                             Backend& backend);
/// Bytes that arrange_weights copies to; 0 for what is arranged.
int64_t arranged_bytes(const ExpertWeights& weights);

/// A copy of `host`, arranged, in one block of the backend's memory, which the result owns. Waits
/// for the copy.
/// Throws Error: as validate; Unsupported with the bytes when the device has no such memory free.
LayerWeights to_device(const LayerWeights& host, const MoeConfig& config, int num_ranks,
                       Backend& backend, const Progress& progress = {});

/// Copies of experts of `all`, whose w1 has one for each id, on the host: slot s of the result has
/// those of expert_of_slot[s], zeros for -1. So of the slots of a rank it makes what that rank of a
/// layer with a placement needs. Everything else is that of `all`, whose owner is kept.
/// Throws Error: ShapeMismatch for an id that `all` has no expert of; Unsupported with the bytes when
/// there is no such memory.
LayerWeights weights_of_slots(const LayerWeights& all, std::span<const int32_t> expert_of_slot);

/// Random weights of the shapes of `config`, for tests and benchmarks: uniform, scaled so that
/// activations keep the size of their input. The weights of an expert depend on `seed` and its
/// global id only, so every split over ranks computes the same layer. Experts have `format`; codes of
/// f8_e4m3 are uniform, too, and so are their scales, of which none is like another. Owns its memory.
LayerWeights random_weights(const MoeConfig& config, int num_ranks, int rank, uint64_t seed,
                            const ExpertFormat& format = {});

/// Bytes that random_weights and load_layer need for one rank.
int64_t weight_bytes(const MoeConfig& config, int num_ranks);
/// The same with experts of another format.
int64_t weight_bytes(const MoeConfig& config, int num_ranks, const ExpertFormat& format);

}  // namespace switchyard
