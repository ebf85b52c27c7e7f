// src/weights/checkpoint_files.cc
#include "weights/checkpoint_files.h"

#include <nlohmann/json.hpp>

#include "base/require.h"
#include "weights/config_reader.h"
#include "weights/shard_index.h"

namespace switchyard {
namespace {

// False as well for what cannot be a file's name.
bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace

CheckpointFiles::CheckpointFiles(const std::filesystem::path& directory) : directory_(directory) {
  const auto single = directory / "model.safetensors",
             index = directory / "model.safetensors.index.json";
  if (is_there(single)) {
    files_.push_back(TensorFile::open(single));
  } else {
    SWITCHYARD_REQUIRE(is_there(index), BadFile, "checkpoint: ", directory.string(),
                       ", has neither model.safetensors nor model.safetensors.index.json.");
    open_shards(index);
  }
}

void CheckpointFiles::open_shards(const std::filesystem::path& index) {
  std::map<std::string, const TensorFile*> shards;
  for (const auto& [tensor, name] : read_shard_index(read_json_object(index), index.string())) {
    auto& shard = shards[name];
    if (shard == nullptr) {
      const auto path = directory_ / name;
      SWITCHYARD_REQUIRE(is_there(path), BadFile, "checkpoint: shard ", path.string(),
                         " is missing; its index names it. Download it again.");
      files_.push_back(TensorFile::open(path));
      shard = files_.back().get();
    }
    SWITCHYARD_REQUIRE(shard->find(tensor) != nullptr, BadFile, "checkpoint: ", index.string(),
                       ", tensor ", tensor, ": is not in ", name,
                       ". The index does not fit its files.");
    places_[tensor] = shard;
  }
}

const TensorFile* CheckpointFiles::file_of(const std::string& name) const {
  if (places_.empty()) return files_.front()->find(name) ? files_.front().get() : nullptr;
  const auto at = places_.find(name);
  return at == places_.end() ? nullptr : at->second;
}

const TensorEntry& CheckpointFiles::entry(const std::string& name) const {
  const TensorFile* file = file_of(name);
  if (file == nullptr && places_.empty())
    files_.front()->tensor(name);  // throws, with the nearest name
  SWITCHYARD_REQUIRE(file != nullptr, BadFile, "checkpoint: ", directory_.string(), ", tensor ",
                     name, ": the index names no file for it. Download both again.");
  return *file->find(name);
}

void CheckpointFiles::for_each_name(const std::function<void(const std::string&)>& visit) const {
  if (places_.empty())
    for (const auto& entry : files_.front()->entries()) visit(entry.name);
  for (const auto& [name, file] : places_) visit(name);
}

}  // namespace switchyard
