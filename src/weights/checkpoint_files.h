// src/weights/checkpoint_files.h -- the safetensors files of a checkpoint as one set of tensors.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "switchyard/safetensors.h"

namespace switchyard {

// Thread-safe.
class CheckpointFiles {
 public:
  // model.safetensors; or what model.safetensors.index.json names; or, without both, every
  // safetensors file of the folder. transformers prefers the single file, too.
  static std::unique_ptr<const CheckpointFiles> open(const std::filesystem::path& directory);
  virtual ~CheckpointFiles() = default;

  // Whether the index names it, or without one a header. Opens no shard of an index.
  virtual bool has(const std::string& name) const = 0;
  // Opens its shard. Throws Error(BadFile) where the tensor is missing, its shard is not there or
  // damaged, or several files hold it; names both.
  virtual const TensorEntry& entry(const std::string& name) const = 0;
  // Every name that the index holds, or without one the headers, in order. Opens nothing.
  virtual void for_each_name(const std::function<void(const std::string&)>& visit) const = 0;
};

}  // namespace switchyard
