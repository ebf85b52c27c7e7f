// src/weights/unused_tensors.h -- tensors that would change what a layer computes, if they were
// read.
#pragma once

#include "weights/layer_loader.h"

namespace switchyard {

// Throws Error(Unsupported) that names a tensor of the layer's block which is not read though it
// changes numbers: biases, norms, scales of experts, shared experts, projections around the
// experts, tables of token ids, experts that the config does not count. Names that nobody knows and
// what belongs to quantised tensors are not looked at.
void check_unused_tensors(const CheckpointFiles& files, const LayerTensors& tensors);

}  // namespace switchyard
