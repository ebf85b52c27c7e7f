// src/device/stopwatch.h -- times work of a CUDA device as users run it: captured once into a
// graph, replayed. A build without CUDA has its own form.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "switchyard/backend.h"

namespace switchyard {

using Enqueue = std::function<void(CUstream_st*)>;

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
  // The same for what cannot be captured.
  virtual std::vector<double> repeat(const Enqueue& enqueue, int repeat, Cache cache) = 0;
  // One graph of all parts in turn, `lead_in` before each: microseconds of each part, without that,
  // in each of `repeat` runs. The host waits after each run. `ready` is called before the first.
  virtual std::vector<std::vector<double>> replay_parts(std::span<const Enqueue> parts,
                                                        const Enqueue& lead_in,
                                                        const std::function<void()>& ready,
                                                        int repeat, Cache cache) = 0;
};

// Waits for all earlier work of the device. Throws Error(Unsupported) in a build without CUDA.
std::unique_ptr<Stopwatch> make_cuda_stopwatch(Backend& backend);

}  // namespace switchyard
