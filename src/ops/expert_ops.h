// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/expert_ops.h -- from received rows to their weighted sums, and what is around the experts.
//
// num_rows is i32 [1] on the device: rows at or past it are neither read nor written.
#pragma once

#include <algorithm>

#include "ops/dispatch_ops.h"
#include "switchyard/config.h"
#include "switchyard/dispatcher.h"
#include "switchyard/strategy.h"
#include "switchyard/weights.h"

namespace switchyard {

struct GemmConfig;  // strategy/gemm_configs.h

// The slots of these rows that have a row.
inline double filled_slots(const ReadI32& read, ConstTensor row_of_slot, const RowRange& rows) {
  const auto row = read(row_of_slot.rows(rows.begin, rows.size));
  return static_cast<double>(static_cast<int64_t>(row.size()) -
                             std::count(row.begin(), row.end(), kNoRow));
}
inline double addend_bytes(const Addend& addend, double rows) {
  return addend.rows.present() ? row_bytes(addend.rows, rows) : 0;
}

// Where each local expert's rows are in an expert buffer, both layouts alike: expert e owns rows
// [first_row[e], first_row[e] + counts[e]). Rows between two groups are padding and never touched.
// Groups never overlap; those of GroupRows are in any order.
struct RowGroups {
  Tensor counts;     // i32 [E_local] valid slots
  Tensor first_row;  // i64 [E_local + 1]; contiguous: prefix sum of aligned counts; masked: e *
                     // capacity
  // CUDA: i32 [1], 0 between calls; GEMMs, one after the other, draw their work from it. Absent:
  // work is divided beforehand, slower where groups differ.
  Tensor next_step = {};
  // CUDA: RowTile [most tiles], those of all groups in order of experts, each of at most tile_rows
  // rows, and none past the last. For GEMMs whose blocks take one tile each; absent: a block looks
  // through counts for its own.
  Tensor tiles = {};
  int tile_rows = 0;
};

// Stable counting sort of the slots of the first num_rows[0] rows by local expert, to places in a
// buffer of C rows. Notes MaskedOverflow (rank `rank`) when an expert has more rows than capacity;
// such slots get kNoRow and counts stop at the capacity.
struct PlanRows {
  static constexpr const char* kName = "plan_rows";
  Layout layout = Layout::Contiguous;
  int64_t alignment = 1;  // contiguous
  int64_t capacity = 0;   // masked: rows per expert
  RowGroups groups;
  Tensor row_of_slot;  // i32 [R_cap, K]; kNoRow where the slot has no local expert (or R <= row)
  // i32 [C]; kNoRow on padding and unused rows of every group, and past the last. Absent: not
  // wanted
  Tensor slot_of_row;
  // i32 [C] ("m_indices"); kNoExpert on the same rows. Absent: not wanted
  Tensor row_expert;
  Tensor scratch;              // i32 [kPlanBlocks, E_local]; what it holds afterwards means nothing
  ConstTensor ids;             // i32 [R_cap, K] local
  ConstTensor num_rows;        // absent: all
  bool notes_bad_ids = false;  // the first id outside [-1, E_local) is noted: nobody did before
  int rank = 0;
  Tensor status;

  // ids and row_of_slot once each; slot_of_row where it is wanted
  Work work(const ReadI32& read) const {
    const int64_t rows = num_rows.present() ? read(num_rows).front() : ids.dim(0);
    return {(slot_of_row.present() ? 3 : 2) * row_bytes(ids, static_cast<double>(rows))};
  }
};

// Groups from "m_indices": row_expert i32 [C] has the expert of every row of a contiguous buffer,
// kNoExpert on padding, wherever it is. The rows of one expert are consecutive; experts are in any
// order, at any row. An expert without rows has count 0 and first row 0; first_row[E] = C. Notes
// RowsNotGrouped (rank `rank`) with the lowest row that has neither an expert nor kNoExpert, or
// resumes an expert whose rows had ended; all counts and first rows are 0 then.
struct GroupRows {
  static constexpr const char* kName = "group_rows";
  RowGroups groups;
  ConstTensor row_expert;
  int rank = 0;
  Tensor status;

  Work work(const ReadI32&) const { return {tensor_bytes(row_expert)}; }
};

// Rows of ranks other than `rank`, or for them: return_row i32 [T, P].
inline double rows_of_others(const ReadI32& read, ConstTensor return_row, int rank) {
  const auto row = read(return_row);
  const auto num_ranks = static_cast<size_t>(return_row.dim(1));
  double count = 0;
  for (size_t i = 0; i < row.size(); ++i)
    count += row[i] != kNoRow && i % num_ranks != static_cast<size_t>(rank);
  return count;
}

// dst[row_of_slot[r, k], :] = src[r, :] where there is a row. Rows of any dtype, of a multiple of 4
// bytes; the scales of src are not looked at.
struct ScatterRows {
  static constexpr const char* kName = "scatter_rows";
  Tensor dst;  // [C, W]
  RowSource src;
  ConstTensor row_of_slot;  // i32 [R_cap, K]
  ConstTensor num_rows;     // absent: all

  // Rows of peers come only where they have a slot.
  Work work(const ReadI32& read) const {
    const int64_t rows = num_rows.present() ? read(num_rows).front() : row_of_slot.dim(0);
    const int64_t top_k = row_of_slot.dim(1);
    const auto row = read(row_of_slot.rows(0, rows));
    double slots = 0, here = 0, crossing = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const auto first = row.begin() + r * top_k;
      const auto filled = top_k - std::count(first, first + top_k, kNoRow);
      slots += static_cast<double>(filled);
      if (!src.peers.present())
        ++here;
      else
        (r / src.block == src.peers.rank ? here : crossing) += filled > 0;
    }
    return {row_bytes(src.rows, here + crossing) + row_bytes(dst, slots), 0, 0,
            row_bytes(src.rows, crossing)};
  }
};

// dst[r, :] = epilogue(src[r, :] * weights[e]^T) for the rows r of each expert e. Masked groups by
// Cublas without a scratch: dst's rows past counts hold anything afterwards. Running it throws
// Unsupported for contiguous groups of several experts by Cublas without host_counts, or on a
// stream that is being captured.
struct GroupedGemm {
  const char* name =
      "grouped_gemm";   // for traces: grouped_gemm1, grouped_gemm2, router, shared1, shared2
  Tensor dst;           // bf16 or f32 [C, N], or [C, N / 2] when the activation is gated
  ConstTensor src;      // bf16 [C, K_inner]
  ConstTensor weights;  // bf16 [E_local, N, K_inner]
  ConstTensor bias;     // f32 [E_local, N] or absent; joins the fp32 sums
  RowGroups groups;
  Layout layout = Layout::Contiguous;
  int64_t max_rows = 0;                    // bound of the sum of counts
  const Activation* activation = nullptr;  // absent: none
  GateUpOrder order = GateUpOrder::Unset;  // of weights and bias, when gated
  ConstTensor slot_of_row;                 // i32 [C], for the two that follow
  // Weight on the input: sums of row r are scaled by row_weights.flat[slot_of_row[r]] before bias
  // and activation. Absent: they are not.
  ConstTensor row_weights;  // f32 [R_cap, K]
  // > 0: src is [R_cap, K_inner], and row r of the groups is its row slot_of_row[r] / slots_per_row.
  // CUDA only where Backend::gathers says so.
  int slots_per_row = 0;
  // What `groups` and slot_of_row hold was there before the operation before this one began, which
  // may write src: the kernel then looks at weights first.
  bool groups_are_older = false;
  // Hopper. > 0: the inner dimension is summed in chunks of this size, a multiple of 64, which are
  // added in their order.
  int64_t chunk = 0;
  // Hopper: of kGemmConfigs, the caller's word. Absent: chosen. Changes no bit.
  const GemmConfig* config = nullptr;

  // CUDA only; the CPU has one provider.
  GemmProvider provider = GemmProvider::Hopper;
  // Cublas: f32 [C, N], where bias, activation and row weights read the sums. Not needed where dst
  // itself can hold them (f32, no gate) or nothing reads them. Absent for every other provider.
  Tensor scratch;
  bool host_counts = false;  // Cublas: contiguous groups may wait for the stream to read counts
  // Hopper: multiprocessors that this call may use, at most the device's; 0: the backend's. Changes
  // no bit. Tiles of clusters of two leave an odd one idle.
  int num_sms = 0;

  Work work(const ReadI32& read) const {
    double rows = 0, active = 0;
    for (const int32_t count : read(groups.counts)) rows += count, active += count > 0;
    const auto nk = static_cast<double>(weights.dim(1) * weights.dim(2));
    const double weight_bytes = active * nk * 2;
    return {weight_bytes + row_bytes(src, rows) + row_bytes(dst, rows), 2 * rows * nk,
            weight_bytes};
  }
};

// Of one expert that owns every row of src: the router, shared experts, a latent's matrices. The
// matrix is [N, K_inner] or [1, N, K_inner].
inline GroupedGemm single_group_gemm(const char* name, Tensor dst, ConstTensor src,
                                     ConstTensor matrix, const RowGroups& groups,
                                     GemmProvider provider) {
  GroupedGemm gemm;
  gemm.name = name;
  gemm.dst = dst;
  gemm.src = src;
  gemm.weights = matrix;
  if (matrix.shape.rank() == 2) gemm.weights.shape = {1, matrix.dim(0), matrix.dim(1)};
  gemm.groups = groups;
  gemm.max_rows = src.dim(0);
  gemm.provider = provider;
  return gemm;
}

// Rows that stay as they are.
struct KeptRows {
  bool empty = false;  // those without any term, which are zero otherwise
  RowRange range;
};

// dst[r, :] = row r of the sums + addend.scale[r] * addend.rows[r, :], in fp32: of the experts, and
// in rank order of ranks.
struct SumRows {
  const char* name = "sum_rows";  // for traces: gather_rows of experts, sum_partials of ranks
  Tensor dst;                     // bf16, rounded, or f32 [R_cap, H]
  SlotSums sums;
  // Present: slot p of a row is a row of rank p; bf16.
  PeerBases peers{};
  // With peers. Present: where this rank has a term, that is row r of these, rounded to bf16.
  SlotSums own{};
  Addend addend{};
  ConstTensor num_rows{};  // absent: all
  KeptRows kept{};
  ConstTensor status{};  // with peers: nothing is read once it is set
  ConstTensor poison{};  // a status: once it is set, sums are NaN
  int max_blocks = 0;    // CUDA, with peers: of the kernel; 0: chosen

  Work work(const ReadI32& read) const {
    const int64_t n = num_rows.present() ? read(num_rows).front() : dst.dim(0);
    const RowRange left_out = n > 0 ? kept.range : RowRange{};
    const auto rows = static_cast<double>(n - left_out.size);
    const double others = peers.present() ? rows_of_others(read, sums.row_of_slot, peers.rank) : 0;
    const double terms = own.rows.present() ? others + filled_slots(read, own.row_of_slot, {0, n})
                                            : filled_slots(read, sums.row_of_slot, {0, n}) -
                                                  filled_slots(read, sums.row_of_slot, left_out);
    return {row_bytes(sums.rows, terms) + row_bytes(dst, rows) + addend_bytes(addend, rows),
            (sums.weights.present() ? 2 : 1) * terms * static_cast<double>(dst.dim(1)), 0,
            others * row_bytes(sums.rows, 1)};
  }
};

// The experts of each received row, but of `left_out`.
inline SumRows gather_rows(Tensor dst, const SlotSums& sums, const ReceivedRows& received,
                           const Addend& addend = {}, RowRange left_out = {}) {
  return {.name = "gather_rows",
          .dst = dst,
          .sums = sums,
          .addend = addend,
          .num_rows = received.num_rows,
          .kept = {received.has_gaps, left_out}};
}
// The partial rows of ranks: that of rank p is row return_row[t, p] of what came back.
inline SumRows sum_partials(Tensor dst, ConstTensor returned, ConstTensor return_row,
                            const Addend& addend) {
  return {.name = "sum_partials", .dst = dst, .sums = {returned, return_row, {}}, .addend = addend};
}

// dst[t, :] = bf16(src[t, :] * inverse[t] * weight), inverse = 1 / sqrt(mean of squares + epsilon).
struct NormRows {
  static constexpr const char* kName = "norm_rows";
  Tensor dst;          // bf16 [T, N]; absent: only `inverse` is wanted. May be src
  Tensor inverse;      // f32 [T]; absent: not wanted
  ConstTensor src;     // bf16 or f32 [T, N]
  ConstTensor weight;  // f32 [N], with dst
  float epsilon = 0;

  Work work(const ReadI32&) const {
    return {tensor_bytes(src) + tensor_bytes(dst) + tensor_bytes(inverse)};
  }
};

// dst[t, :] = sum over s ascending of weights[t, s] * src[s, t, :].
struct WeighShared {
  static constexpr const char* kName = "weigh_shared";
  Tensor dst;           // f32 [T, H]
  ConstTensor src;      // f32 [S, T, H]
  ConstTensor weights;  // f32 [T, S]

  Work work(const ReadI32&) const {
    return {tensor_bytes(src) + tensor_bytes(weights) + tensor_bytes(dst)};
  }
};

// dst = bf16(src + addend.scale * addend.rows).
struct AddRows {
  static constexpr const char* kName = "add_rows";
  Tensor dst;       // bf16 [T, H]
  ConstTensor src;  // f32 [T, H]
  Addend addend;

  Work work(const ReadI32&) const {
    return {tensor_bytes(src) + tensor_bytes(addend.rows) + tensor_bytes(dst)};
  }
};

struct Widen {
  static constexpr const char* kName = "widen";
  Tensor dst;       // f32
  ConstTensor src;  // bf16

  Work work(const ReadI32&) const { return {tensor_bytes(src) + tensor_bytes(dst)}; }
};

// Groups of one expert that owns rows [0, num_rows): the router, shared experts.
struct SingleGroup {
  static constexpr const char* kName = "single_group";
  RowGroups groups;
  int64_t num_rows = 0;

  Work work(const ReadI32&) const { return {}; }
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  Tensor dst;       // f32
  ConstTensor src;  // f32

  Work work(const ReadI32&) const { return {2 * tensor_bytes(dst)}; }
};

struct FillI32 {
  static constexpr const char* kName = "fill_i32";
  Tensor dst;
  int32_t value = 0;

  Work work(const ReadI32&) const { return {tensor_bytes(dst)}; }
};

// dst = src, which is on the host and may change at once: few words, which travel with a launch. The
// host waits for nothing. Throws Error(Unsupported) while a graph captures the stream: it would write
// these words again and again.
struct WriteI32 {
  static constexpr const char* kName = "write_i32";
  Tensor dst;
  const int32_t* src = nullptr;

  Work work(const ReadI32&) const { return {tensor_bytes(dst)}; }
};

struct Copy {
  static constexpr const char* kName = "copy";
  Tensor dst;
  ConstTensor src;  // equal bytes

  Work work(const ReadI32&) const { return {2 * tensor_bytes(src)}; }
};

// dst[t, :] = src[t, :]; their rows begin this many elements apart.
struct CopyRows {
  static constexpr const char* kName = "copy_rows";
  Tensor dst;       // [T, N]
  ConstTensor src;  // [T, N], the same dtype
  int64_t dst_stride = 0;
  int64_t src_stride = 0;

  Work work(const ReadI32&) const { return {2 * tensor_bytes(src)}; }
};

// At creation: dst[e, n, :] = row n of expert e, which src has at row r: n, or, with gate and up in
// turns, 2n of a gate and 2 (n - N / 2) + 1 of an up. A bias is rows of one element.
struct ArrangeWeights {
  static constexpr const char* kName = "arrange_weights";
  Tensor dst;       // bf16 or f32 [E, N, H]
  ConstTensor src;  // [E, N, H], or transposed [E, H, N]; the same dtype, or bf16 for f32
  bool transposed = false;
  bool interleaved = false;

  Work work(const ReadI32&) const { return {tensor_bytes(src) + tensor_bytes(dst)}; }
};

// dst becomes NaN if status is set.
struct Poison {
  static constexpr const char* kName = "poison";
  Tensor dst;  // bf16 or f32
  ConstTensor status;

  Work work(const ReadI32&) const { return {}; }  // one word, unless something failed
};

using ExpertOps =
    OpList<PlanRows, GroupRows, ScatterRows, GroupedGemm, SumRows, NormRows, WeighShared, AddRows,
           Widen, SingleGroup, Sigmoid, FillI32, WriteI32, Copy, CopyRows, ArrangeWeights, Poison>;

}  // namespace switchyard
