// src/weights/config_reader.cc
#include "weights/config_reader.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/require.h"

namespace switchyard {
namespace {

bool is_int64(const nlohmann::json& value) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
}

}  // namespace

const nlohmann::json* ConfigReader::find(Keys keys) const {
  for (const char* key : keys)
    if (const auto at = object_.find(key); at != object_.end() && !at->is_null()) return &*at;
  return nullptr;
}

void ConfigReader::refuse(Keys keys, const char* rule) const {
  std::string names;
  for (const char* key : keys) names += cat(names.empty() ? "" : " or ", key);
  const auto* value = find(keys);
  const std::string seen = value ? value->dump().substr(0, 60) : "nothing";
  throw Error(Errc::BadFile,
              cat("checkpoint: ", file_, ", ", names, "=", seen, ", need ", rule, "."));
}

int64_t ConfigReader::integer(Keys keys) const {
  const auto* value = find(keys);
  if (!value || !is_int64(*value)) refuse(keys, "an integer");
  return value->get<int64_t>();
}

int64_t ConfigReader::integer_or(Keys keys, int64_t fallback) const {
  return find(keys) ? integer(keys) : fallback;
}

int64_t ConfigReader::integer_of_all_layers(Keys keys) const {
  const auto* value = find(keys);
  if (!value || !value->is_array()) return integer(keys);
  const auto all = integers_or_none(keys);
  const bool equal = !all.empty() && std::all_of(all.begin(), all.end(),
                                                 [&](int64_t v) { return v == all.front(); });
  if (!equal) refuse(keys, "the same integer for every layer");
  return all.front();
}

double ConfigReader::number_or(Keys keys, double fallback) const {
  const auto* value = find(keys);
  if (!value) return fallback;
  // What is read as a number is kept as a float.
  if (!value->is_number() || !std::isfinite(value->get<float>())) refuse(keys, "a finite number");
  return value->get<double>();
}

bool ConfigReader::boolean_or(Keys keys, bool fallback) const {
  const auto* value = find(keys);
  if (value && !value->is_boolean()) refuse(keys, "true or false");
  return value ? value->get<bool>() : fallback;
}

std::string ConfigReader::text(Keys keys) const {
  const auto* value = find(keys);
  if (!value || !value->is_string()) refuse(keys, "a string");
  return value->get<std::string>();
}

std::string ConfigReader::text_or(Keys keys, const std::string& fallback) const {
  return find(keys) ? text(keys) : fallback;
}

std::vector<int64_t> ConfigReader::integers_or_none(Keys keys) const {
  std::vector<int64_t> values;
  const auto* list = find(keys);
  if (!list) return values;
  if (!list->is_array()) refuse(keys, "a list of integers");
  for (const auto& v : *list) {
    if (!is_int64(v)) refuse(keys, "a list of integers");
    values.push_back(v.get<int64_t>());
  }
  return values;
}

std::optional<ConfigReader> ConfigReader::object(Keys keys) const {
  const auto* value = find(keys);
  if (!value) return {};
  if (!value->is_object()) refuse(keys, "an object");
  return ConfigReader(*value, file_);
}

void ConfigReader::refuse_unknown(Keys known) const {
  std::string names;
  for (const char* key : known) names += cat(names.empty() ? "" : ", ", key);
  for (const auto& [key, value] : object_.items())
    SWITCHYARD_REQUIRE(std::any_of(known.begin(), known.end(),
                                   [&key = key](std::string_view k) { return k == key; }),
                       BadFile, "checkpoint: ", file_, ", key ", key, " is unknown. Known are ",
                       names, ".");
}

}  // namespace switchyard
