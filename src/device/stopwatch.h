// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/stopwatch.h -- times work of a CUDA device as users run it: captured once into a
// graph, replayed. A build without CUDA has its own form.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "switchyard/backend.h"

namespace switchyard {

using Enqueue = std::function<void(CUstream_st*)>;
enum class Edge { Begin, End };
using Mark = std::function<void(int part, Edge edge)>;
using EnqueueParts = std::function<void(CUstream_st*, const Mark& mark)>;

enum class Cache {
  Warm,  // what the last replay left
  Cold,  // 256 MB are written before each replay, several times any L2
};

// After each set of runs the device rests, so that the next one is a burst on a cool card, too.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  // Where everything that is timed runs; not the default stream, which cannot be captured.
  virtual CUstream_st* stream() = 0;
  // Microseconds of each of `repeat` replays. What `enqueue` throws, this throws.
  virtual std::vector<double> replay(const Enqueue& enqueue, int repeat, Cache cache) = 0;
  // Kernels of the graph that was replayed last.
  virtual int num_kernels() const = 0;
  // The same for what cannot be captured.
  virtual std::vector<double> repeat(const Enqueue& enqueue, int repeat, Cache cache) = 0;
  // One graph of what `enqueue` does, which marks where each of `num_parts` parts begins and ends:
  // microseconds of each part in each of `repeat` runs. The host waits after each run. `ready` is
  // called before the first.
  virtual std::vector<std::vector<double>> replay_parts(int num_parts, const EnqueueParts& enqueue,
                                                        const std::function<void()>& ready,
                                                        int repeat, Cache cache) = 0;
  // Nothing that a cache holds is used by what is enqueued next.
  virtual void flush(CUstream_st* stream) = 0;
};

// Waits for all earlier work of the device. Throws Error(Unsupported) in a build without CUDA.
std::unique_ptr<Stopwatch> make_cuda_stopwatch(Backend& backend);

}  // namespace switchyard
