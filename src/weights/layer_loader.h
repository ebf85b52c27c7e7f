// src/weights/layer_loader.h -- tensors of a checkpoint -> one rank's weights.
#pragma once

#include "switchyard/checkpoint.h"
#include "weights/checkpoint_files.h"
#include "weights/family.h"

namespace switchyard {

// A template with its numbers filled in.
std::string fill_template(std::string name, int64_t layer, int64_t expert = 0);

// How the experts are stored. Contract: Checkpoint::stored_format.
std::string stored_format(const CheckpointFiles& files, const std::string& prefix,
                          const FamilyLayers& family, int64_t layer);

// `prefix` stands before every name (nested text models). Contract: Checkpoint::load_layer.
LayerWeights load_layer(const CheckpointFiles& files, const std::string& prefix,
                        const FamilyLayers& family, int64_t layer, int num_ranks, int rank,
                        const Progress& progress);

}  // namespace switchyard
