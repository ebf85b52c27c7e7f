// src/weights/json_file.h -- JSON files: config.json and layer.json as a tree, an index as events.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace switchyard {

// The parsed text of a small JSON file. Throws Error(BadFile): missing, larger than 16 MiB,
// damaged (with the line), too deeply nested, or no object. Python's NaN and Infinity become
// strings, of which no reader takes a number. Of a key that occurs twice the last one counts.
nlohmann::json read_json_object(const std::filesystem::path& path);
// The same of a text; `file` names it in messages.
nlohmann::json parse_json_object(std::string_view text, const std::string& file);
// The same without a rule for the result: what `keep` refuses is left out of it.
nlohmann::json parse_json(std::string_view text, const std::string& file,
                          const nlohmann::json::parser_callback_t& keep = nullptr);

// Refuses JSON of more than 64 levels before a recursive parser reads it.
void check_nesting(std::string_view text, const std::string& file);

}  // namespace switchyard
