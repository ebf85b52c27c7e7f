// src/base/backend.h -- what hides behind the public Backend: one device's memory and operations.
#pragma once

#include "switchyard/backend.h"
#include "switchyard/strategy.h"

namespace switchyard {

class Memory;  // device/memory.h
class Ops;     // ops/ops.h
struct GroupedGemm;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual DeviceKind kind() const = 0;
  // The one that runs here and is not asked for by name.
  virtual GemmProvider provider() const = 0;
  virtual Memory& memory() = 0;
  virtual Ops& ops() = 0;
  // Before kernels may wait for those of a peer: nothing is loaded late any more.
  virtual void load_kernels() {}
  // Whether a grouped GEMM like this one takes rows by slot_of_row: then no operation has to bring
  // them together.
  virtual bool gathers(const GroupedGemm& gemm) const {
    (void)gemm;
    return false;
  }
  virtual void observe(OpObserver observer) = 0;
  // From now on ops() is `ops`, which may call what ops() was before; nullptr ends it. For whoever
  // records the operations of a forward.
  virtual void divert(Ops* ops) = 0;
};

}  // namespace switchyard
