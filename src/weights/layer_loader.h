// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/layer_loader.h -- tensors of a checkpoint -> one rank's weights.
#pragma once

#include "switchyard/checkpoint.h"
#include "weights/checkpoint_files.h"
#include "weights/family.h"

namespace switchyard {

// What one layer computes, and where its tensors are.
struct LayerTensors {
  const FamilyLayers* family = nullptr;
  const TensorNames* names = nullptr;  // one of the family's forms
  MoeConfig config;
  std::string prefix;  // of every name
  int64_t layer = 0;
};

// unused_tensors.cc
// Throws Error(Unsupported) that names a tensor of the layer's block which is not read though it
// changes numbers: biases, norms, scales of experts, shared experts, projections around the
// experts, tables of token ids, experts that the config does not count. Unknown names and what
// belongs to quantised tensors are not looked at.
void check_unused_tensors(const CheckpointFiles& files, const LayerTensors& tensors);

// How the experts are stored. Contract: Checkpoint::stored_format.
std::string stored_format(const CheckpointFiles& files, const LayerTensors& tensors);

// Contract: Checkpoint::load_layer.
LayerWeights load_layer(const CheckpointFiles& files, const LayerTensors& tensors, int num_ranks,
                        int rank, WeightForms forms, const Progress& progress);

// Contract: Checkpoint::native_format.
ExpertFormat native_format(const CheckpointFiles& files, const LayerTensors& tensors);

}  // namespace switchyard
