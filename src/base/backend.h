// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/backend.h -- what hides behind the public Backend: one device's memory and operations.
#pragma once

#include <atomic>

#include "base/home_process.h"
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
  // What its GEMMs need beside scratch is made now, so that none of them allocates. May throw.
  virtual void prepare(GemmProvider provider) { (void)provider; }
  // Multiprocessors that its grouped GEMMs may use; 0: it has none.
  virtual int num_sms() const { return 0; }
  // Rows of a tile of a grouped GEMM like this one, if each of its blocks takes one: it takes rows by
  // slot_of_row, so that no operation has to bring them together, and RowGroups::tiles. 0: it does
  // not.
  virtual int rows_of_tile(const GroupedGemm& gemm) const {
    (void)gemm;
    return 0;
  }
  virtual void observe(OpObserver observer) = 0;
  // From now on ops() is `ops`, which may call what ops() was before; nullptr ends it. For whoever
  // records the operations of a forward.
  virtual void divert(Ops* ops) = 0;

 private:
  friend class BackendTurn;
  std::atomic<bool> in_use_ = false;
  const HomeProcess home_{};
};

inline void require_backend(const char* operation, const std::shared_ptr<Backend>& backend) {
  SWITCHYARD_REQUIRE(backend != nullptr, ShapeMismatch, operation,
                     ": backend=null, need one. Use make_cpu_backend or make_cuda_backend.");
}

// One thread's use of a backend. Throws where another thread is at it: both would write the same
// memory; and in a child of fork.
class BackendTurn {
 public:
  BackendTurn(Backend& backend, const char* operation) : backend_(backend) {
    backend.home_.require(operation, "its backend");
    SWITCHYARD_REQUIRE(!backend.in_use_.exchange(true, std::memory_order_acquire), Unsupported,
                       operation,
                       ": backend=in use by another thread, one at a time may call its "
                       "layers. Take turns, or give each thread a backend and layers of its own.");
  }
  ~BackendTurn() { backend_.in_use_.store(false, std::memory_order_release); }
  BackendTurn(const BackendTurn&) = delete;
  BackendTurn& operator=(const BackendTurn&) = delete;

 private:
  Backend& backend_;
};

}  // namespace switchyard
