// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/gate_ops.h -- from logits to ids and weights.
#pragma once

#include "ops/expert_ops.h"
#include "switchyard/placement.h"

namespace switchyard {

// logits[t, n] = sum over h of hidden[t, h] * weights[n, h]. Its bits do not depend on T.
struct RouterLogits {
  static constexpr const char* kName = "router";
  Tensor logits;        // f32 [T, N]
  ConstTensor hidden;   // bf16 [T, H]
  ConstTensor weights;  // bf16 [N, H]
  RowGroups group;      // of one; what it holds afterwards means nothing

  Work work(const ReadI32&) const {
    const double products =
        static_cast<double>(hidden.dim(0)) * static_cast<double>(weights.count());
    return {tensor_bytes(hidden) + tensor_bytes(weights) + tensor_bytes(logits), 2 * products,
            tensor_bytes(weights)};
  }
};

// The rule of `gate` on logits. N = the choices, of which there are E and the zero experts, and
// then S scored shared experts.
struct GateTopk {
  static constexpr const char* kName = "gate_topk";
  Tensor ids;               // i32 [T, K]
  Tensor weights;           // f32 [T, K]
  Tensor shared_weights{};  // f32 [T, S]; absent: no shared expert is scored
  // f32 [T, logit_parts * N]. logit(t, e) = row_scale[t] * sum of logits[t, part * N + e] + bias[e]
  ConstTensor logits;
  int logit_parts = 1;
  ConstTensor row_scale{};        // f32 [T]; absent: 1
  ConstTensor bias{};             // f32 [N]; absent: 0
  ConstTensor correction_bias{};  // f32 [choices]; absent: 0
  ConstTensor expert_scale{};     // f32 [N]; absent: 1
  // Both or neither: ids[t, :] = token_experts[token_ids[t], :], or INT32_MIN, which is out of
  // range, where there is no such token.
  ConstTensor token_ids{};      // i32 or i64 [T]
  ConstTensor token_experts{};  // i32 [V, K]
  SlotTables slots{};           // present: ids are counted, and become weight slots
  GateConfig gate;

  Work work(const ReadI32&) const {
    return {tensor_bytes(logits) + tensor_bytes(ids) + tensor_bytes(weights)};
  }
};

// Both, one after the other, over the same logits: which are in memory afterwards or not.
struct ChooseExperts {
  static constexpr const char* kName = "choose_experts";
  RouterLogits router;
  GateTopk gate;

  Work work(const ReadI32& read) const {
    const Work logits = router.work(read);
    return {tensor_bytes(router.hidden) + tensor_bytes(router.weights) + tensor_bytes(gate.ids) +
                tensor_bytes(gate.weights),
            logits.flops, logits.weight_bytes};
  }
};

// dst[0] + dst[1] + dst[2] = src, each the rounded rest, so a router in f32 is three in bf16. Exact
// but for what lies below bf16's smallest number.
struct SplitF32 {
  static constexpr const char* kName = "split_f32";
  Tensor dst;       // bf16 [3, N, H]
  ConstTensor src;  // f32 [N, H]

  Work work(const ReadI32&) const { return {tensor_bytes(src) + tensor_bytes(dst)}; }
};

// Zero experts are ids >= num_experts: dst_ids is ids with kNoExpert for them, identity[t] the sum
// of their weights. Ids of num_ids and more stay as they are, for others to refuse. With slots the
// others are counted, and become weight slots, or out of range.
struct SplitZeroExperts {
  static constexpr const char* kName = "split_zero_experts";
  Tensor dst_ids;       // i32 [T, K], may be ids
  Tensor identity;      // f32 [T]
  ConstTensor ids;      // i32 [T, K]
  ConstTensor weights;  // f32 [T, K]
  int64_t num_experts = 0;
  int64_t num_ids = 0;
  SlotTables slots{};

  Work work(const ReadI32&) const {
    return {2 * tensor_bytes(ids) + tensor_bytes(weights) + tensor_bytes(identity)};
  }
};

using GateOps = OpList<RouterLogits, GateTopk, ChooseExperts, SplitF32, SplitZeroExperts>;

}  // namespace switchyard
