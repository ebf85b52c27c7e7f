// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/fused_call.h -- what fused_experts does once its arrays are views, for both that call it.
#pragma once

#include "switchyard/fused_experts.h"

namespace switchyard::python {

struct FusedCall {
  MoeConfig config;
  LayerWeights weights;
  LayerOptions options;
  ForwardArgs args;
};

struct FusedOptions {
  Activation activation;
  OutOfRangeIds out_of_range_ids = OutOfRangeIds::Error;
  int64_t max_tokens = -1;
};

// The kept layers' threads stay in the parent of a fork: throws Error(Unsupported) after one.
void check_not_forked(const char* operation);

// Configuration and options of `call`, whose experts, hidden and ids are there.
void complete(FusedCall& call, const FusedOptions& options, DeviceKind device);

// Of a completed call.
size_t workspace_bytes(const FusedCall& call);

// Of a completed call with output, stream and workspace.
void run(const FusedCall& call);

}  // namespace switchyard::python
