// src/ops/traced_ops.h -- a CPU backend's operations, timed one by one. For observers only: forward
// calls the plain operations when nobody looks. Reads counts on the host, so it needs host-visible
// memory.
#pragma once

#include "ops/recorded_ops.h"
#include "switchyard/backend.h"

namespace switchyard {

class TracedOps final : public RecordedOps {
 public:
  using RecordedOps::RecordedOps;

  void observe(OpObserver observer) { observer_ = std::move(observer); }
  bool observed() const { return static_cast<bool>(observer_); }

 private:
  // Runs the call, then reports it with the work it had.
  void note(const OpCall& call, CUstream_st* stream) override;

  OpObserver observer_;
};

}  // namespace switchyard
