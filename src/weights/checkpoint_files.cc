// src/weights/checkpoint_files.cc
#include "weights/checkpoint_files.h"

#include <nlohmann/json.hpp>

#include "base/require.h"
#include "weights/config_reader.h"

namespace switchyard {

CheckpointFiles::CheckpointFiles(const std::filesystem::path& directory) : directory_(directory) {
  const auto single = directory / "model.safetensors",
             index = directory / "model.safetensors.index.json";
  if (std::filesystem::exists(single)) {
    files_.push_back(TensorFile::open(single));
  } else {
    SWITCHYARD_REQUIRE(std::filesystem::exists(index), BadFile, "checkpoint: ", directory.string(),
                       ", has neither model.safetensors nor model.safetensors.index.json.");
    open_shards(index);
  }
}

void CheckpointFiles::open_shards(const std::filesystem::path& index) {
  const auto json = read_json_object(index);
  const auto map = json.find("weight_map");
  SWITCHYARD_REQUIRE(map != json.end() && map->is_object(), BadFile, "checkpoint: ", index.string(),
                     ", has no object weight_map.");
  std::map<std::string, const TensorFile*> shards;
  for (const auto& [tensor, file] : map->items()) {
    SWITCHYARD_REQUIRE(file.is_string(), BadFile, "checkpoint: ", index.string(), ", tensor ",
                       tensor, ": its file is no string.");
    const auto name = file.get<std::string>();
    SWITCHYARD_REQUIRE(name.find('/') == std::string::npos && name != ".." && !name.empty(),
                       BadFile, "checkpoint: ", index.string(), ", tensor ", tensor,
                       ": file=", name, ", need a file name in the same folder.");
    auto& shard = shards[name];
    if (shard == nullptr) {
      const auto path = directory_ / name;
      SWITCHYARD_REQUIRE(std::filesystem::exists(path), BadFile, "checkpoint: shard ",
                         path.string(), " is missing; its index names it. Download it again.");
      files_.push_back(TensorFile::open(path));
      shard = files_.back().get();
    }
    SWITCHYARD_REQUIRE(shard->find(tensor) != nullptr, BadFile, "checkpoint: ", index.string(),
                       ", tensor ", tensor, ": is not in ", name,
                       ". The index does not fit its files.");
    places_[tensor] = shard;
  }
  SWITCHYARD_REQUIRE(!files_.empty(), BadFile, "checkpoint: ", index.string(), ", names no files.");
}

const TensorFile* CheckpointFiles::file_of(const std::string& name) const {
  if (places_.empty()) return files_.front()->find(name) ? files_.front().get() : nullptr;
  const auto at = places_.find(name);
  return at == places_.end() ? nullptr : at->second;
}

const TensorEntry& CheckpointFiles::entry(const std::string& name) const {
  const TensorFile* file = file_of(name);
  if (file == nullptr) files_.front()->tensor(name);  // throws, with the nearest name
  return *file->find(name);
}

}  // namespace switchyard
