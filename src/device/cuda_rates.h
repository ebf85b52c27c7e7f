// src/device/cuda_rates.h -- what the benchmark asks of a CUDA device beside its operations; a
// build without CUDA has its own form.
#pragma once

#include <cstdint>

#include "switchyard/measure.h"

namespace switchyard {

DeviceRates measure_cuda_device(Backend& backend);
double measure_cuda_link(Backend& from, Backend& to, int64_t bytes);

// Values of base/random.h on the device: slice g of the outermost dimension holds the sequence of
// expert `first_expert` + g; all of it that of expert -1 when first_expert is -1. bf16 or f32.
void fill_random(Tensor dst, uint64_t seed, int64_t first_expert, int number, float range);

}  // namespace switchyard
