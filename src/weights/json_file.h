// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/json_file.h -- JSON files: config.json and layer.json as a tree, an index as events;
// typed reads of an object.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

// A tree that ends without asking for memory: nlohmann's destructor takes some for a stack, and ends
// the process where there is none.
class JsonTree {
 public:
  explicit JsonTree(nlohmann::json root) noexcept : root_(std::move(root)) {}
  JsonTree(JsonTree&&) = default;
  ~JsonTree() { dismantle(root_); }
  const nlohmann::json& operator*() const { return root_; }

 private:
  static void dismantle(nlohmann::json& value) noexcept;

  nlohmann::json root_;
};

// The parsed text of a small JSON file. Throws Error(BadFile): missing, larger than 16 MiB or of
// more than a million values, damaged (with the line), too deeply nested, or no object. Python's NaN and Infinity become
// strings, of which no reader takes a number. Of a key that occurs twice the last one counts.
JsonTree read_json_object(const std::filesystem::path& path);
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

// Typed reads of a JSON object, every failure with file, key and value.
class ConfigReader {
 public:
  // Spellings of one key, newest first; the first that is present and not null counts. A key that
  // is null is refused where a function does not mention null.
  using Keys = std::initializer_list<const char*>;

  ConfigReader(const nlohmann::json& object, std::string file)
      : object_(object), file_(std::move(file)) {}

  // Whether one of them is there, and not null.
  bool has(Keys keys) const { return find(keys) != nullptr; }
  bool is_list(const char* key) const;

  int64_t integer(Keys keys) const;
  int64_t integer_or(Keys keys, int64_t absent, std::optional<int64_t> null = {}) const;
  // One for each of `count` layers, from an integer or a list of at least so many.
  std::vector<int64_t> integer_of_layers(Keys keys, int64_t count) const;
  double number_or(Keys keys, double absent, std::optional<double> null = {}) const;
  float float_or(Keys keys, double absent, std::optional<double> null = {}) const {
    return static_cast<float>(number_or(keys, absent, null));
  }
  // The same of numbers; empty when absent or null. Null entries are 0.
  std::vector<double> numbers_or_none(Keys keys) const;
  // Null means false.
  bool boolean_or(Keys keys, bool absent) const;
  std::string text(Keys keys) const;
  std::string text_or(Keys keys, const std::string& absent) const;
  std::vector<int64_t> integers_or_none(Keys keys) const;
  std::vector<std::string> texts_or_none(Keys keys) const;
  // [1, 2] or "1,2"; empty when absent or null.
  std::vector<int64_t> integers_of_text_or_list(const char* key) const;
  // The object under a key; empty when there is none.
  std::optional<ConfigReader> object(Keys keys) const;
  // Refuses keys that are not in `known`, so that a typing error is not silently a default.
  void refuse_unknown(const std::vector<std::string_view>& known) const;

  const nlohmann::json& json() const { return object_; }
  const std::string& file() const { return file_; }

 private:
  template <class T>
  std::vector<T> list(Keys keys, bool (*is_entry)(const nlohmann::json&), const char* rule) const;
  const nlohmann::json* find(Keys keys) const;
  bool is_absent(Keys keys) const;
  [[noreturn]] void refuse(Keys keys, const char* rule) const;

  const nlohmann::json& object_;
  std::string file_;
};

}  // namespace switchyard
