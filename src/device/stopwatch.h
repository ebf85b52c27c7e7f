// src/device/stopwatch.h -- times work of a CUDA device as users run it: captured once into a
// graph, replayed. A build without CUDA has its own form.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "switchyard/backend.h"

namespace switchyard {

using Enqueue = std::function<void(CUstream_st*)>;

enum class Cache {
  Warm,  // what the last replay left
  Cold,  // 256 MB are written before each replay, several times any L2
};

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  // Where everything that is timed runs; not the default stream, which cannot be captured.
  virtual CUstream_st* stream() = 0;
  // Microseconds of each of `repeat` replays. What `enqueue` throws, this throws.
  virtual std::vector<double> replay(const Enqueue& enqueue, int repeat, Cache cache) = 0;
};

// Waits for all earlier work of the device. Throws Error(Unsupported) in a build without CUDA.
std::unique_ptr<Stopwatch> make_cuda_stopwatch(Backend& backend);

}  // namespace switchyard
