// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/pipeline.cuh -- the rings of stages and steps between the producer and the
// warpgroups that multiply.
#pragma once

#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "strategy/gemm_configs.h"

namespace switchyard::cuda {

// Where a ring stands: the same sequence for all roles.
template <int kSlots>
struct RingPosition {
  int slot = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++slot == kSlots) slot = 0, parity ^= 1;
  }
  // The same n times.
  __device__ void skip(int n) {
    const int wraps = (slot + n) / kSlots;
    slot += n - wraps * kSlots, parity ^= wraps & 1;
  }
};

// One role's view. Each role has its own.
template <GemmConfig kConfig>
class Pipeline {
 public:
  using Storage = SharedStorage<kConfig>;
  // Who arrives: every thread that loads, with the bytes of its copies; a lane of every warp that
  // multiplies a stage, of each block that loads into this one; the producer, with a step; a lane of
  // every warp of the warpgroup whose turn ends; the block that gets a step.
  static constexpr int kFullArrivals = kConfig.producer_threads();
  static constexpr int kEmptyArrivals =
      (kConfig.ping_pong ? 128 : kConfig.math_threads()) / 32 * kConfig.cluster();
  static constexpr int kStepArrivals = 1, kTurnArrivals = 128 / 32;
  static constexpr int kSentArrivals = 1;
  static constexpr int kScalesArrivals = kConfig.scale_threads();

  __device__ explicit Pipeline(Storage& storage) : shared(storage) {}

  // By one thread, before any role begins.
  static __device__ void init(Storage& shared) {
    for (int s = 0; s < kConfig.stages; ++s) {
      ptx::mbarrier_init(&shared.full[s], kFullArrivals);
      ptx::mbarrier_init(&shared.empty[s], kEmptyArrivals);
    }
    for (int s = 0; s < Storage::kStepSlots; ++s)
      ptx::mbarrier_init(&shared.step_full[s], kStepArrivals);
    for (int g = 0; kConfig.ping_pong && g < 2; ++g)
      ptx::mbarrier_init(&shared.turn[g], kTurnArrivals);
    for (int s = 0; kConfig.scaled() && s < kConfig.stages; ++s)
      ptx::mbarrier_init(&shared.scales_full[s], kScalesArrivals);
    for (int s = 0; kConfig.cluster() > 1 && s < kSentSteps; ++s)
      ptx::mbarrier_init(&shared.step_sent[s], kSentArrivals);
    ptx::fence_mbarrier_init(ptx::sem_release, ptx::scope_cluster);
  }

  // The stage at which this role stands.
  __device__ int stage() const { return at.slot; }
  __device__ uint8_t* weights() const { return shared.weights(at.slot); }
  __device__ uint8_t* rows() const { return shared.rows(at.slot); }
  // Of the rows, then of the rows of weights.
  __device__ float* scales() const { return shared.stage_scales(at.slot); }
  __device__ const float* row_scales() const { return scales(); }
  __device__ const float* weight_scales() const { return scales() + kConfig.rows; }
  __device__ uint64_t* full() const { return &shared.full[at.slot]; }
  __device__ void advance() { at.advance(); }

  // ---- the producer
  __device__ void wait_empty() const {
    ptx::mbarrier_wait_parity(&shared.empty[at.slot], at.parity ^ 1);
  }
  __device__ void put_step(const GemmStep& s) {
    shared.steps[step.slot] = s;
    ptx::mbarrier_arrive(&shared.step_full[step.slot]);
    step.advance();
  }
  __device__ void expect(int bytes) const {
    ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, full(),
                                   bytes);
  }
  // Tells those that multiply that no step is left: each that takes steps in turn.
  __device__ void end() {
    wait_empty();
    for (int i = 0; i < (kConfig.ping_pong ? 2 : 1); ++i) put_step({});
  }

  // ---- those that bring scales
  // Once this thread's copies are there.
  __device__ void arrive_scales() const {
    ptx::cp_async_mbarrier_arrive_noinc(&shared.scales_full[at.slot]);
  }

  // ---- those that multiply
  __device__ void wait_full() const { ptx::mbarrier_wait_parity(full(), at.parity); }
  __device__ void wait_scales() const {
    ptx::mbarrier_wait_parity(&shared.scales_full[at.slot], at.parity);
  }
  // The step that comes next. Without rows: there is none.
  __device__ GemmStep next_step() {
    ptx::mbarrier_wait_parity(&shared.step_full[step.slot], step.parity);
    const GemmStep s = shared.steps[step.slot];
    step.advance();
    return s;
  }
  // The other warpgroup's step, of so many stages.
  __device__ void skip_step(int num_stages) { at.skip(num_stages), step.advance(); }
  // Warpgroups that take steps in turn multiply one after the other: the tensor cores hold no more,
  // and stages come in this order.
  __device__ void wait_turn(int group) {
    ptx::mbarrier_wait_parity(&shared.turn[group], turn_parity ^ (group == 0));
    turn_parity ^= 1;
  }
  __device__ void pass_turn(int group) const {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(&shared.turn[1 - group]);
  }
  // A stage is free once every block that loads into it knows: lane i of a warp tells block i.
  __device__ void release(int stage) const {
    const int lane = threadIdx.x % 32;
    if (stage < 0 || lane >= kConfig.cluster()) return;
    if constexpr (kConfig.cluster() == 1)
      ptx::mbarrier_arrive(&shared.empty[stage]);
    else
      ptx::mbarrier_arrive_mapa(&shared.empty[stage], lane);
  }

 private:
  Storage& shared;
  RingPosition<kConfig.stages> at;
  RingPosition<Storage::kStepSlots> step;
  uint32_t turn_parity = 0;
};

}  // namespace switchyard::cuda
