// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/linear_attention/checks.h -- what a step's arguments must be, before anything is enqueued.
#pragma once

#include "switchyard/linear_attention.h"

namespace switchyard {

// Each throws the Error that linear_attention.h promises. The views are of `device`.
void check(const ConvDecode& step, int64_t max_batch, DeviceKind device);
void check(const ConvPrefillStates& step, int64_t max_batch, DeviceKind device);
void check(const DeltaRuleDecode& step, int64_t max_batch, DeviceKind device);

}  // namespace switchyard
