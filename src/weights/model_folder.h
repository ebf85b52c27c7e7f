// src/weights/model_folder.h -- from what a user names to the folder that holds a checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace switchyard {

// `path` itself, or a snapshot inside it where it is a model's folder in the Hugging Face cache:
// models--<org>--<name>, the snapshot that refs/main names; its folder `snapshots`, the only one.
// Throws Error(BadFile): no folder (for what looks like a name on the hub, how to download it), or
// not one snapshot to take, with those that are there.
std::filesystem::path find_model_folder(const std::filesystem::path& path);

// What the folder holds, in order; nothing where it cannot be read.
std::vector<std::string> names_in(const std::filesystem::path& folder);

}  // namespace switchyard
