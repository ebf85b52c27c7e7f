// src/weights/shard_index.cc
#include "weights/shard_index.h"

#include <nlohmann/json.hpp>

#include "base/require.h"

namespace switchyard {

std::map<std::string, std::string> read_shard_index(const nlohmann::json& index,
                                                    const std::string& path) {
  const auto map = index.find("weight_map");
  SWITCHYARD_REQUIRE(map != index.end() && map->is_object(), BadFile, "checkpoint: ", path,
                     ", has no object weight_map.");
  SWITCHYARD_REQUIRE(!map->empty(), BadFile, "checkpoint: ", path, ", names no files.");
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, file] : map->items()) {
    SWITCHYARD_REQUIRE(file.is_string(), BadFile, "checkpoint: ", path, ", tensor ", tensor,
                       ": its file is no string.");
    const auto& name = file.get_ref<const std::string&>();
    const bool is_name = !name.empty() && name != "." && name != ".." &&
                         name.find_first_of(std::string("/\0", 2)) == std::string::npos;
    SWITCHYARD_REQUIRE(is_name, BadFile, "checkpoint: ", path, ", tensor ", tensor, ": file=", name,
                       ", need a file name in the same folder.");
    shards[tensor] = name;
  }
  return shards;
}

}  // namespace switchyard
