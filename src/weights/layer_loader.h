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
  std::string prefix;  // stands before every name
  int64_t layer = 0;
};

// How the experts are stored. Contract: Checkpoint::stored_format.
std::string stored_format(const CheckpointFiles& files, const LayerTensors& tensors);

// Contract: Checkpoint::load_layer.
LayerWeights load_layer(const CheckpointFiles& files, const LayerTensors& tensors, int num_ranks,
                        int rank, const Progress& progress);

}  // namespace switchyard
