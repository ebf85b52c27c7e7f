// src/weights/config_reader.cc
#include "weights/config_reader.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "weights/text.h"

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

bool ConfigReader::is_absent(Keys keys) const {
  return std::ranges::none_of(keys, [&](const char* key) { return object_.contains(key); });
}

bool ConfigReader::is_list(const char* key) const {
  const auto* value = find({key});
  return value != nullptr && value->is_array();
}

void ConfigReader::refuse(Keys keys, const char* rule) const {
  const auto* value = find(keys);
  const std::string seen = value             ? value->dump().substr(0, 60)
                           : is_absent(keys) ? "nothing"
                                             : "null";
  throw Error(Errc::BadFile, cat("checkpoint: ", file_, ", ", joined(keys, " or "), "=", seen,
                                 ", need ", rule, "."));
}

int64_t ConfigReader::integer(Keys keys) const {
  const auto* value = find(keys);
  if (!value || !is_int64(*value)) refuse(keys, "an integer");
  return value->get<int64_t>();
}

int64_t ConfigReader::integer_or(Keys keys, int64_t absent, std::optional<int64_t> null) const {
  if (is_absent(keys)) return absent;
  return !find(keys) && null ? *null : integer(keys);
}

std::vector<int64_t> ConfigReader::integer_of_layers(Keys keys, int64_t count) const {
  const auto* value = find(keys);
  if (!value || !value->is_array()) return std::vector<int64_t>(count, integer(keys));
  auto all = integers_or_none(keys);
  if (static_cast<int64_t>(all.size()) < count) refuse(keys, "an integer for every layer");
  all.resize(count);
  return all;
}

double ConfigReader::number_or(Keys keys, double absent, std::optional<double> null) const {
  if (is_absent(keys)) return absent;
  const auto* value = find(keys);
  if (!value && null) return *null;
  // What is read as a number is kept as a float.
  if (!value || !value->is_number() || !std::isfinite(value->get<float>()))
    refuse(keys, "a finite number");
  return value->get<double>();
}

std::vector<double> ConfigReader::numbers_or_none(Keys keys) const {
  std::vector<double> values;
  const auto* list = find(keys);
  if (!list) return values;
  if (!list->is_array()) refuse(keys, "a list of numbers");
  for (const auto& v : *list) {
    const bool good = v.is_null() || (v.is_number() && std::isfinite(v.get<float>()));
    if (!good) refuse(keys, "a list of finite numbers");
    values.push_back(v.is_null() ? 0.0 : v.get<double>());
  }
  return values;
}

bool ConfigReader::boolean_or(Keys keys, bool absent) const {
  if (is_absent(keys)) return absent;
  const auto* value = find(keys);
  if (value && !value->is_boolean()) refuse(keys, "true or false");
  return value != nullptr && value->get<bool>();
}

std::string ConfigReader::text(Keys keys) const {
  const auto* value = find(keys);
  if (!value || !value->is_string()) refuse(keys, "a string");
  return value->get<std::string>();
}

std::string ConfigReader::text_or(Keys keys, const std::string& absent) const {
  return is_absent(keys) ? absent : text(keys);
}

template <class T>
std::vector<T> ConfigReader::list(Keys keys, bool (*is_entry)(const nlohmann::json&),
                                  const char* rule) const {
  const auto* list = find(keys);
  if (!list) return {};
  if (!list->is_array() || !std::ranges::all_of(*list, is_entry)) refuse(keys, rule);
  return list->get<std::vector<T>>();
}

std::vector<int64_t> ConfigReader::integers_or_none(Keys keys) const {
  return list<int64_t>(keys, is_int64, "a list of integers");
}

std::vector<std::string> ConfigReader::texts_or_none(Keys keys) const {
  return list<std::string>(
      keys, [](const auto& value) { return value.is_string(); }, "a list of strings");
}

std::vector<int64_t> ConfigReader::integers_of_text_or_list(const char* key) const {
  const auto* value = find({key});
  if (!value || !value->is_string()) return integers_or_none({key});
  std::vector<int64_t> values;
  for (const auto part : split(value->get_ref<const std::string&>(), ',')) {
    const auto number = integer_of(part);
    if (!number) refuse({key}, "integers between commas");
    values.push_back(*number);
  }
  return values;
}

std::optional<ConfigReader> ConfigReader::object(Keys keys) const {
  const auto* value = find(keys);
  if (!value) return {};
  if (!value->is_object()) refuse(keys, "an object");
  return ConfigReader(*value, file_);
}

void ConfigReader::refuse_unknown(const std::vector<std::string_view>& known) const {
  for (const auto& [key, value] : object_.items())
    SWITCHYARD_REQUIRE(std::ranges::count(known, key) > 0, BadFile, "checkpoint: ", file_, ", key ",
                       key, " is unknown. Known are ", joined(known), ".");
}

}  // namespace switchyard
