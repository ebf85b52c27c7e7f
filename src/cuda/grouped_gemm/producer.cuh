// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/producer.cuh -- the role that fills stages. How rows of src come is a struct:
// rows gathered by index would be another, with more threads.
#pragma once

#include "cuda/grouped_gemm/pipeline.cuh"
#include "cuda/grouped_gemm/schedule.cuh"
#include "cuda/ptx/cp_async_bulk.cuh"

namespace switchyard::cuda {

// Rows that follow each other, in boxes by the copy engine; the blocks of a cluster load a share
// each, for all.
struct TmaRows {
  static constexpr ProducerKind kKind = ProducerKind::TmaRows;
  // Rows that one copy brings: few where most of a tile's rows may be idle.
  static constexpr int box_rows(const GemmConfig& c) { return c.rows <= 64 ? 16 : 32; }

  template <GemmConfig kConfig>
  struct Loader {
    static constexpr int kBoxRows = box_rows(kConfig), kBoxBytes = kBoxRows * kStageRowBytes;
    static constexpr uint16_t kAll = (1 << kConfig.cluster()) - 1;

    __device__ Loader(const GemmParams& params, const GemmStep& step, int cluster_rank)
        : p(params),
          rank(cluster_rank),
          row(static_cast<int>(step.first_row)),
          num_boxes((step.num_rows + kBoxRows - 1) / kBoxRows) {}

    __device__ int bytes() const { return num_boxes * kBoxBytes; }
    __device__ void load(const Pipeline<kConfig>& pipeline, int k) const {
      for (int b = kConfig.cluster() > 1 ? rank : 0; b < num_boxes; b += kConfig.cluster()) {
        uint8_t* dst = pipeline.rows() + b * kBoxBytes;
        if constexpr (kConfig.cluster() > 1)
          ptx::cp_async_bulk_tensor_multicast(dst, &p.src, {k, row + b * kBoxRows}, pipeline.full(),
                                              kAll, ptx::L2CacheHint::EvictLast);
        else
          ptx::cp_async_bulk_tensor(dst, &p.src, {k, row + b * kBoxRows}, pipeline.full(),
                                    ptx::L2CacheHint::EvictLast);
      }
    }

    const GemmParams& p;
    const int rank, row, num_boxes;
  };
};

template <ProducerKind kKind>
struct RowsOf;
template <>
struct RowsOf<ProducerKind::TmaRows> {
  using type = TmaRows;
};

// One of the threads that load.
template <GemmConfig kConfig, class Rows>
class Producer {
 public:
  __device__ Producer(const GemmParams& params, SharedStorage<kConfig>& storage, int cluster_rank)
      : p(params),
        shared(storage),
        rank(cluster_rank),
        keep_weights(p.stream_weights ? ptx::L2CacheHint::EvictFirst
                                      : ptx::L2CacheHint::EvictNormal),
        pipeline(storage) {}

  __device__ void run(const Schedule<kConfig>& schedule) {
    const int num_k = (p.k + kConfig.inner() - 1) / kConfig.inner();
    const int num_steps = schedule.num_steps();
    StepDraw<kConfig> draw(p, shared, rank, num_steps);
    for (int s = draw.first(); s < num_steps; s = draw.next()) {
      const GemmStep step = schedule.step(s, rank);
      draw.ask(s);
      const typename Rows::template Loader<kConfig> rows(p, step, rank);
      for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
        pipeline.wait_empty();
        if (kb == 0) pipeline.put_step(step);
        pipeline.expect(rows.bytes() + kConfig.weights * kStageRowBytes);
        load_weights(step, kb * kConfig.inner());
        rows.load(pipeline, kb * kConfig.inner());
        if (kb == num_k / 2) draw.send();
      }
    }
    pipeline.end();
  }

 private:
  // Gate and up rows alternate in eights: the map of W1 [2I, k] has the dimensions (k, 8, 2 halves,
  // I / 8, E), so the copy engine interleaves them and the weights stay as in the checkpoint.
  __device__ void load_weights(const GemmStep& step, int k) const {
    const int row = step.weights * kConfig.weights;
    p.out.gated
        ? ptx::cp_async_bulk_tensor(pipeline.weights(), &p.weights,
                                    {k, 0, 0, row / 16, step.expert}, pipeline.full(), keep_weights)
        : ptx::cp_async_bulk_tensor(pipeline.weights(), &p.weights, {k, row, step.expert},
                                    pipeline.full(), keep_weights);
  }

  const GemmParams& p;
  SharedStorage<kConfig>& shared;
  const int rank;
  const ptx::L2CacheHint keep_weights;
  Pipeline<kConfig> pipeline;
};

// One of the threads that bring each stage its scales, as soon as it is free.
template <GemmConfig kConfig>
class ScaleProducer {
 public:
  __device__ ScaleProducer(const GemmParams& params, SharedStorage<kConfig>& storage,
                           int its_thread)
      : p(params), thread(its_thread), pipeline(storage) {}

  __device__ void run() {
    const int num_k = (p.k + kConfig.inner() - 1) / kConfig.inner();
    for (;;) {
      const GemmStep step = pipeline.next_step();
      if (step.num_rows == 0) return;
      const float* scales[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) scales[i] = scales_of(step, thread + i * kThreads);
      for (int kb = 0; kb < num_k; ++kb, pipeline.advance()) {
        const int row_step = p.src_scales.step(kb), weight_step = p.weight_scales.step(kb);
        pipeline.wait_empty();
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const int place = thread + i * kThreads;
          if (place < kConfig.rows + kConfig.weights)
            ptx::cp_async_4(pipeline.scales() + place,
                            scales[i] + (place < kConfig.rows ? row_step : weight_step));
        }
        pipeline.arrive_scales();
      }
    }
  }

 private:
  // Of the matrix, whose gate and up rows the copy engine lets alternate in eights.
  __device__ int weight_row(int place) const {
    if (!p.out.gated) return place;
    return place / 16 * 8 + place % 8 + place / 8 % 2 * p.out.width;
  }

  static constexpr int kThreads = kConfig.scale_threads();
  static constexpr int kEach = (kConfig.rows + kConfig.weights + kThreads - 1) / kThreads;

  // The first scale of row `place` of the tile, then of its rows of weights. Past their ends: any
  // that there is, as nothing reads what they multiply.
  __device__ const float* scales_of(const GemmStep& step, int place) const {
    if (place >= kConfig.rows) {
      const int row = weight_row(step.weights * kConfig.weights + place - kConfig.rows);
      const int block = min(row / p.weight_scales.rows, p.weight_scales.blocks - 1);
      return p.weight_scales.values +
             (int64_t{step.expert} * p.weight_scales.blocks + block) * p.weight_scales.steps;
    }
    int64_t row = step.first_row + min(place, step.num_rows - 1);
    if (p.slot_of_row != nullptr) row = p.slot_of_row[row] / p.slots_per_row;
    return p.src_scales.values + row * p.src_scales.steps;
  }

  const GemmParams& p;
  const int thread;
  Pipeline<kConfig> pipeline;
};

}  // namespace switchyard::cuda
