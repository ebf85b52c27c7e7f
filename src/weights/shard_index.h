// src/weights/shard_index.h -- which file of a sharded checkpoint holds a tensor.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace switchyard {

// Tensor -> name of a file in the index's own folder, from model.safetensors.index.json at `path`.
// Throws Error(BadFile): no weight_map, an entry that is no name or leads elsewhere, or no entry.
std::map<std::string, std::string> read_shard_index(const nlohmann::json& index,
                                                    const std::string& path);

}  // namespace switchyard
