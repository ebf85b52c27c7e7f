// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/config.h -- swy_config and swy_options to and from C++.
#pragma once

#include <span>

#include "c_api/call.h"
#include "switchyard/config.h"
#include "switchyard/layer.h"

namespace switchyard::c_api {

swy_config from_config(const MoeConfig& config);
// The caller's; whether a layer can have it is for `validate`.
MoeConfig to_config(const char* operation, const swy_config* given);
// A placement: both given, or neither.
std::span<const int32_t> slots_of(const char* operation, const int32_t* placement,
                                  int64_t num_slots);
// The caller's, or defaults for NULL, of a layer on the context's backend.
LayerOptions to_options(const char* operation, const swy_options* given,
                        const swy_context& context);

}  // namespace switchyard::c_api
