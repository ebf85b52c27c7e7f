// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/ops/traced_ops.h -- a CPU backend's operations, timed one by one. For observers only: forward
// runs the plain operations when none looks. Reads counts on the host, so it needs host-visible
// memory.
#pragma once

#include <chrono>

#include "ops/ops.h"
#include "switchyard/backend.h"

namespace switchyard {

class TracedOps final : public Ops {
 public:
  explicit TracedOps(Ops& ops) : ops_(ops) {}

  void observe(OpObserver observer) { observer_ = std::move(observer); }
  bool observed() const { return static_cast<bool>(observer_); }

  // Then reports it with the work it had.
  void run(const AnyOp& op, CUstream_st* stream) override {
    const auto start = std::chrono::steady_clock::now();
    ops_.run(op, stream);
    const std::chrono::duration<double, std::micro> us = std::chrono::steady_clock::now() - start;
    const Work work = work_of(op, [](ConstTensor t) {
      return std::vector<int32_t>(t.as<int32_t>(), t.as<int32_t>() + t.count());
    });
    // A few words: not worth a line.
    if (work.bytes > 0 || work.flops > 0)
      observer_({name_of(op), us.count(), work.bytes, work.flops, work.weight_bytes});
  }

 private:
  Ops& ops_;
  OpObserver observer_;
};

}  // namespace switchyard
