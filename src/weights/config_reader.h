// src/weights/config_reader.h -- typed reads of a JSON object, every failure with file, key and
// value.
#pragma once

#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "weights/json_file.h"

namespace switchyard {

class ConfigReader {
 public:
  // Spellings of one key, newest first; the first that is present counts.
  using Keys = std::initializer_list<const char*>;

  ConfigReader(const nlohmann::json& object, std::string file)
      : object_(object), file_(std::move(file)) {}

  int64_t integer(Keys keys) const;
  int64_t integer_or(Keys keys, int64_t fallback) const;
  // An integer, or a list with one per layer, all of them equal.
  int64_t integer_of_all_layers(Keys keys) const;
  double number_or(Keys keys, double fallback) const;
  bool boolean_or(Keys keys, bool fallback) const;
  std::string text(Keys keys) const;
  std::string text_or(Keys keys, const std::string& fallback) const;
  std::vector<int64_t> integers_or_none(Keys keys) const;
  // The object under a key; empty when there is none.
  std::optional<ConfigReader> object(Keys keys) const;
  // Refuses keys that are not in `known`, so that a typing error is not silently a default.
  void refuse_unknown(Keys known) const;

 private:
  const nlohmann::json* find(Keys keys) const;
  [[noreturn]] void refuse(Keys keys, const char* rule) const;

  const nlohmann::json& object_;
  std::string file_;
};

}  // namespace switchyard
