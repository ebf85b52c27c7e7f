// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/fused_experts.h -- public: a MoE layer as a function, for callers that have no
// place for a handle.
#pragma once

#include "switchyard/layer.h"

namespace [[gnu::visibility("default")]] switchyard {

/// MoeLayer::forward of a layer of one rank, which is made by the first call and kept: by config,
/// options, and addresses and shapes of `weights`.
///
/// A kept layer has views and no copy of a weight, so memory that is freed and used again for
/// weights of the same shapes is read as it is then. Weights that would be copied are refused: those
/// that are not arranged (is_arranged), and routers in f32. `weights.owner` is not kept.
/// The workspace is args.workspace: MoeLayer::workspace_bytes(config, 1, options) of it. Without
/// options.backend all calls of a device share one that is made here; it has options.num_threads or
/// options.num_sms of the first call.
///
/// Thread safety: any thread; calls take turns. Throws Error: as MoeLayer::create and forward, and
/// on a CPU what `wait` would; on CUDA wait_fused_experts throws it.
ForwardReport fused_experts(const MoeConfig& config, const LayerWeights& weights,
                            const LayerOptions& options, const ForwardArgs& args);

/// Waits for `stream`, then throws the first error of the kept layers, as MoeLayer::wait does.
void wait_fused_experts(CUstream_st* stream = nullptr);

/// Frees every layer and backend that is kept. None of their work may be under way, and graphs that
/// were captured of it must not run again.
void forget_fused_experts();

}  // namespace switchyard
