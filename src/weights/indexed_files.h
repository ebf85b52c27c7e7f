// src/weights/indexed_files.h -- shards by their index, opened when a tensor of theirs is needed.
#pragma once

#include <map>
#include <mutex>

#include "weights/checkpoint_files.h"
#include "weights/shard_index.h"

namespace switchyard {

class IndexedFiles final : public NamedTensors {
 public:
  explicit IndexedFiles(const std::filesystem::path& index);

  bool has(const std::string& name) const override { return index_.has(name); }
  const TensorEntry& entry(const std::string& name) const override;
  void for_each_name(const std::function<void(const std::string&)>& visit) const override;

 private:
  const TensorFile& shard(const std::string& file, const std::string& tensor) const;

  std::filesystem::path directory_;
  ShardIndex index_;
  mutable std::mutex mutex_;  // of shards_; ranks that are threads share a checkpoint
  mutable std::map<std::string, std::shared_ptr<const TensorFile>> shards_;  // the open ones
};

}  // namespace switchyard
