// src/weights/safetensors_header.h -- the header of a safetensors file, checked before anything is
// used.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/safetensors.h"

namespace switchyard {

// Bytes of one element; 0 for a dtype that is not known, or smaller than a byte.
int64_t safetensors_dtype_bytes(std::string_view dtype);

// Parses `file` (the whole file) into entries ordered by name. Throws Error(BadFile); `name` says
// which file in messages. Allocates no more than the header's own size calls for.
std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& name);

}  // namespace switchyard
