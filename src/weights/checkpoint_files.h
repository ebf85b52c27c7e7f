// src/weights/checkpoint_files.h -- the safetensors files of a checkpoint as one set of tensors.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "switchyard/safetensors.h"

namespace switchyard {

class CheckpointFiles {
 public:
  // model.safetensors, or every shard that model.safetensors.index.json names. Reads headers only.
  explicit CheckpointFiles(const std::filesystem::path& directory);

  bool has(const std::string& name) const { return file_of(name) != nullptr; }
  // Throws Error(BadFile) for a missing tensor, with the nearest one.
  const TensorEntry& entry(const std::string& name) const;
  // Every tensor's name, in no order.
  void for_each_name(const std::function<void(const std::string&)>& visit) const;

 private:
  const TensorFile* file_of(const std::string& name) const;
  void open_shards(const std::filesystem::path& index);

  std::filesystem::path directory_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::map<std::string, const TensorFile*> places_;  // by the index; empty for a single file
};

}  // namespace switchyard
