// src/weights/tensor_source.h -- a tensor of a checkpoint by name, whatever form it is stored in.
#pragma once

#include <string>

#include "weights/checkpoint_files.h"
#include "weights/stored_tensor.h"

namespace switchyard {

// A view of files that stay open. Names are complete: prefix, layer and expert filled in.
class TensorSource {
 public:
  TensorSource(const CheckpointFiles& files, ScaleBlock scale_block)
      : files_(files), scale_block_(scale_block) {}

  // Under its own name: plain or fp8.
  bool has(const std::string& name) const { return files_.has(name); }
  // Only as `<name>_blocks`, whose rows run along K whatever the family says of the plain tensor.
  bool has_mxfp4(const std::string& name) const;
  // Its number of dimensions; 0 when there is no such tensor.
  size_t rank_of(const std::string& name) const;
  // Throws Error(BadFile) for a missing tensor, Unsupported for a form that is not read.
  StoredTensor open(const std::string& name) const;

 private:
  const CheckpointFiles& files_;
  ScaleBlock scale_block_;
};

}  // namespace switchyard
