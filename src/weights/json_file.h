// src/weights/json_file.h -- JSON files: config.json and layer.json as a tree, an index as events.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

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

// JSON as Python writes it, for a parser of JSON: NaN, Infinity, -Infinity and numbers that no double
// holds (1e999), which Python reads as one of them, are put in quotes. A reader that needs a number
// refuses what it sees, and a key that is not read does not matter. `text` must stay.
class QuotedJson {
 public:
  explicit QuotedJson(std::string_view text);

  std::string_view original() const { return original_; }
  std::string_view text() const { return quotes_.empty() ? original_ : copy_; }
  // Of a character of text(); of a quote behind a word, that of the word's last character.
  size_t original_position(size_t position) const;

 private:
  std::string_view original_;
  std::string copy_;            // empty without quotes
  std::vector<size_t> quotes_;  // where they are in it: before and behind a word, by turns
};

// Refuses JSON of more than 64 levels before a recursive parser reads it.
void check_nesting(std::string_view text, const std::string& file);

}  // namespace switchyard
