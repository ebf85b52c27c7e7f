// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/safetensors_format.h -- what reader and writer know of the format.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>

#include "switchyard/tensor.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

namespace switchyard {

inline constexpr size_t kLengthBytes = sizeof(uint64_t);  // of the header's length, before it
// The format's own limit.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;
// A key of the header that is no tensor.
inline constexpr std::string_view kMetadata = "__metadata__";

struct LoadableDType {
  std::string_view name;
  DType dtype;
};
inline constexpr std::array kLoadableDTypes = {
    LoadableDType{"BF16", DType::Bf16},      LoadableDType{"F16", DType::F16},
    LoadableDType{"F32", DType::F32},        LoadableDType{"F64", DType::F64},
    LoadableDType{"I32", DType::I32},        LoadableDType{"I64", DType::I64},
    LoadableDType{"F8_E4M3", DType::F8E4m3},
};

}  // namespace switchyard
