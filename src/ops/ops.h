// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/ops.h -- THE lists of operations, and what runs them. Gates, dispatchers and executors run
// operations and know no backend.
//
// Every operation is enqueued on `stream` (the CPU runs it at once), allocates nothing, and reads
// counts from device memory: sizes in its operands are capacities. Destination first. Operands were
// checked by the caller at creation; running throws only for what a caller cannot know.
#pragma once

#include "ops/dispatch_ops.h"
#include "ops/expert_ops.h"
#include "ops/fp8_ops.h"
#include "ops/gate_ops.h"
#include "ops/linear_attention_ops.h"
#include "ops/low_latency_ops.h"
#include "ops/peer_ops.h"

namespace switchyard {

using MoeOps =
    decltype(GateOps() + DispatchOps() + ExpertOps() + Fp8Ops() + PeerOps() + LowLatencyOps());
using AnyOp = decltype(MoeOps() + LinearAttentionOps())::Variant;

inline const char* name_of(const AnyOp& op) {
  return std::visit([](const auto& o) { return name_of(o); }, op);
}
inline Work work_of(const AnyOp& op, const ReadI32& read) {
  return std::visit([&](const auto& o) { return o.work(read); }, op);
}

class Ops {
 public:
  virtual ~Ops() = default;
  virtual void run(const AnyOp& op, CUstream_st* stream) = 0;
  // The layer marks where each part of a forward begins, for measurements.
  virtual void begin(Phase phase) { (void)phase; }
};

}  // namespace switchyard
