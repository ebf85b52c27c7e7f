// src/weights/json_file.h -- config.json and layer.json as a tree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "weights/mapped_file.h"

namespace switchyard {

// The parsed text of a small JSON file. Throws Error(BadFile): missing, larger than 16 MiB,
// damaged (with the line), too deeply nested, or no object. Python's NaN and Infinity become
// strings, of which no reader takes a number. Of a key that occurs twice the last one counts.
nlohmann::json read_json_object(const std::filesystem::path& path);
// The same of a text; `file` says in messages where it stands.
nlohmann::json parse_json_object(std::string_view text, const std::string& file);

// A JSON file of at most `max_bytes`. Throws Error(BadFile).
MappedFile map_json(const std::filesystem::path& path, uintmax_t max_bytes);

}  // namespace switchyard
