// src/device/describe_cuda.h -- the current CUDA device; a build without CUDA has its own form.
#pragma once

#include "switchyard/backend.h"

namespace switchyard {

// Never throws: what cannot be had is `available = false` with its reason.
DeviceDescription describe_cuda();

}  // namespace switchyard
