// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/executor.h -- public: rows of local experts -> what their weighted sums are of.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "switchyard/backend.h"
#include "switchyard/config.h"
#include "switchyard/dispatcher.h"
#include "switchyard/strategy.h"
#include "switchyard/weights.h"

namespace [[gnu::visibility("default")]] switchyard {

struct ExecutorOptions {
  ExecutorKind kind = ExecutorKind::Contiguous;
  int64_t alignment = 1;            // contiguous: rows of a group are padded to a multiple; >= 1
  int64_t masked_max_tokens = 256;  // hybrid: masked up to this many rows, inclusive; 0: never
  bool allow_repeated_experts =
      false;  // masked capacity R * K instead of R (a token may repeat an id)
  /// CUDA: Hopper or Cublas; absent: Hopper where the device can run it. The CPU has its own.
  std::optional<GemmProvider> provider;
  bool host_counts = false;  // see LayerOptions
  std::string gemm1;         // see PlanOptions
  std::string gemm2;
};

class Executor {
 public:
  virtual ~Executor() = default;

  virtual ExecutorKind kind() const = 0;

  /// The layout of a call that receives at most `max_rows` rows. Decided on the host: equal on all
  /// ranks, no device read, fixed when a graph is captured.
  virtual Layout layout_for(int64_t max_rows) const = 0;
  /// Bytes for any call of at most `max_rows` rows.
  virtual size_t workspace_bytes(int64_t max_rows) const = 0;

  /// scatter -> GEMM1 with activation -> GEMM2.
  ///
  ///   rows      in     from a dispatcher: local ids
  ///   max_rows  in     bound of R in this call
  ///   status    inout  i32 [kStatusWords]; too small a masked capacity is noted here, and nothing
  ///                    is written outside the buffers
  ///
  /// Returns what each of the first R rows is the sum of, over its K slots, in slot order: views of
  /// `workspace`, as long as no other call uses it, and of `rows`. Dispatcher::sum_experts or
  /// sum_rows adds them up. Not collective. Throws Error(ShapeMismatch).
  virtual SlotSums execute(const ReceivedRows& rows, int64_t max_rows, Workspace workspace,
                           Tensor status, CUstream_st* stream) = 0;
};

/// dst[r, :] = bf16(row r of the sums) for the first R received rows: experts without a dispatcher.
/// dst may be f32, which takes the fp32 sums.
void sum_rows(Backend& backend, Tensor dst, const SlotSums& sums, const ReceivedRows& rows,
              CUstream_st* stream = nullptr);

/// Sizes of pack_by_expert: those of a dispatcher, its max_rows(bound of the call) among them.
struct PackShape {
  int64_t max_rows = 0, top_k = 0;
  int64_t num_experts = 0;  // E_local
  int64_t hidden = 0;
};

/// Received rows by expert, as DeepEP's low-latency mode gives them: for programs that have experts of
/// their own. Views of a workspace. Rows past an expert's count hold anything.
struct ExpertRows {
  Tensor rows;    // bf16 [E_local, max_rows, H], of each expert in the order of the received rows
  Tensor counts;  // i32 [E_local], on the device
  Tensor row_of_slot;  // i32 [R, K] of [E_local * max_rows] rows; -1: the slot has none
};

/// Packs what a dispatcher received in bf16.
///
///   rows       in     R <= max_rows rows with local ids; a row names an expert once
///   workspace  in     pack_by_expert_bytes(shape) of the backend's device; the result's
///   status     inout  i32 [kStatusWords]; an expert that gets more than max_rows rows, since rows name
///                     it twice, is noted here, and nothing is written outside the buffers
///
/// What the experts make of the rows goes back as SlotSums{theirs, as [E_local * max_rows, H],
/// row_of_slot, rows.weights} to Dispatcher::sum_experts and combine. Enqueued; not collective, no
/// allocation, no synchronisation. Throws Error(ShapeMismatch, Misaligned).
ExpertRows pack_by_expert(Backend& backend, const ReceivedRows& rows, const PackShape& shape,
                          Workspace workspace, Tensor status, CUstream_st* stream = nullptr);
size_t pack_by_expert_bytes(const PackShape& shape);

/// Borrows the weights, which are memory of the backend's device. `rank` of `num_ranks` is used for
/// messages and to size E_local. Throws Error(ShapeMismatch, Misaligned or Unsupported).
std::unique_ptr<Executor> make_executor(const MoeConfig& config, const ExecutorOptions& options,
                                        const ExpertWeights& weights, int num_ranks, int rank,
                                        std::shared_ptr<Backend> backend);

}  // namespace switchyard
