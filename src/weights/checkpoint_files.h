// src/weights/checkpoint_files.h -- the safetensors files of a checkpoint as one set of tensors.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "switchyard/safetensors.h"

namespace switchyard {

// What holds the tensors: files by an index, or files by what stands in their headers. Thread-safe.
class NamedTensors {
 public:
  virtual ~NamedTensors() = default;
  virtual bool has(const std::string& name) const = 0;
  virtual const TensorEntry& entry(const std::string& name) const = 0;
  virtual void for_each_name(const std::function<void(const std::string&)>& visit) const = 0;
};

class CheckpointFiles {
 public:
  // model.safetensors; or what model.safetensors.index.json names; or, without both, every
  // safetensors file of the folder. transformers prefers the single file, too.
  explicit CheckpointFiles(const std::filesystem::path& directory);

  // Whether the index names it, or without one a header. Opens no shard of an index.
  bool has(const std::string& name) const { return source_->has(name); }
  // Opens its shard. Throws Error(BadFile) where the tensor is missing, its shard is not there or
  // damaged, or several files hold it; names both.
  const TensorEntry& entry(const std::string& name) const { return source_->entry(name); }
  // Every name that the index holds, or without one the headers, in order. Opens nothing.
  void for_each_name(const std::function<void(const std::string&)>& visit) const {
    source_->for_each_name(visit);
  }

 private:
  std::unique_ptr<const NamedTensors> source_;
};

}  // namespace switchyard
