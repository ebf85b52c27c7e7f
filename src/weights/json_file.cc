// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/json_file.cc
#include "weights/json_file.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "base/require.h"
#include "weights/file_bytes.h"
#include "weights/text.h"

namespace switchyard {
namespace {

using Json = nlohmann::json;

bool in_token(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
         c == '-' || c == '.';
}

// A number too large for a double. One too small is 0 to a parser, as to Python.
bool overflows(std::string_view number) {
  double value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (error != std::errc::result_out_of_range || end != number.data() + number.size()) return false;
  const size_t exponent = number.find_first_of("eE");
  if (exponent != number.npos) return number[exponent + 1] != '-';
  return !number.substr(number.front() == '-').starts_with("0.");
}

bool is_no_finite_number(std::string_view token) {
  if (token == "NaN" || token == "Infinity" || token == "-Infinity") return true;
  // Up to here an integer or a fraction fits, and most tokens are short: nothing to measure.
  constexpr size_t kDigitsThatFit = 300;
  return (token.size() > kDigitsThatFit || token.find_first_of("eE") != token.npos) &&
         overflows(token);
}

// Where a text stops being JSON.
struct FaultFinder final : nlohmann::detail::json_sax_acceptor<Json> {
  bool parse_error(size_t position, const std::string&, const Json::exception&) {
    read = position;
    return false;
  }
  size_t read = 0;  // characters, the one at fault too
};

// The line up to the end of the word at `fault`.
std::string shown(std::string_view text, size_t fault) {
  constexpr size_t kShown = 40;
  size_t end = fault + (text[fault] != '\n');
  while (end < text.size() && end < fault + kShown && std::isalnum(static_cast<uint8_t>(text[end])))
    ++end;
  const size_t line = fault == 0 ? 0 : text.rfind('\n', fault - 1) + 1;
  const size_t begin = std::min(text.find_first_not_of(" \t", line), end);
  if (end - begin <= kShown) return std::string(text.substr(begin, end - begin));
  return cat("...", text.substr(end - kShown, kShown));
}

[[noreturn]] void refuse(const QuotedJson& json, const std::string& file) {
  FaultFinder finder;
  Json::sax_parse(json.text(), &finder);
  const size_t fault = finder.read > 0 ? finder.read - 1 : 0;
  const std::string_view text = json.original();
  const auto before = text.substr(0, json.original_position(fault));
  const std::string where =
      cat("checkpoint: ", file, ", line ", 1 + std::ranges::count(before, '\n'), ": ");
  SWITCHYARD_REQUIRE(fault < json.text().size(), BadFile, where,
                     "the text ends inside its JSON. The file is truncated; copy it again.");
  throw Error(Errc::BadFile, cat(where, "no JSON at the end of '", shown(text, before.size()),
                                 "'. Correct it, or copy the file again."));
}

bool is_int64(const nlohmann::json& value) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
}

}  // namespace

QuotedJson::QuotedJson(std::string_view text) : original_(text) {
  size_t copied = 0;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\';
      ++at;
    } else if (!in_token(text[at])) {
      ++at;
    } else {
      const size_t begin = at;
      while (at < text.size() && in_token(text[at])) ++at;
      const size_t next = text.find_first_not_of(" \t\r\n", at);
      const bool is_key = next != text.npos && text[next] == ':';  // no JSON, for Python neither
      if (is_key || !is_no_finite_number(text.substr(begin, at - begin))) continue;
      copy_ += text.substr(copied, begin - copied);
      quotes_.push_back(copy_.size());
      copy_ += cat('"', text.substr(begin, at - begin), '"');
      quotes_.push_back(copy_.size() - 1);
      copied = at;
    }
  }
  if (!quotes_.empty()) copy_ += text.substr(copied);
}

size_t QuotedJson::original_position(size_t position) const {
  const auto next = std::ranges::lower_bound(quotes_, position);
  const auto before = static_cast<size_t>(next - quotes_.begin());
  const bool is_behind = before % 2 != 0 && *next == position;
  return std::min(position - before - is_behind, original_.size());
}

// From the leaves on, as deep as check_nesting allows: what is empty ends without a stack.
void JsonTree::dismantle(nlohmann::json& value) noexcept {
  if (!value.is_structured()) return;
  for (auto& child : value) dismantle(child);
  value.clear();
}

JsonTree read_json_object(const std::filesystem::path& path) {
  constexpr uintmax_t kMaxBytes = uintmax_t{16} << 20;  // configs have some kB
  return JsonTree(parse_json_object(read_text("checkpoint", path, kMaxBytes), path.string()));
}

nlohmann::json parse_json_object(std::string_view text, const std::string& file) {
  // A tree takes up to a hundred bytes for each value; text has as little as two. Configs that name
  // every expert of a large model have 200,000.
  constexpr auto kMaxValues = std::ptrdiff_t{1} << 20;
  const auto values =
      std::ranges::count_if(text, [](char c) { return c == ',' || c == '[' || c == '{'; });
  SWITCHYARD_REQUIRE(values <= kMaxValues, BadFile, "checkpoint: ", file, ", values=", values,
                     ", at most ", kMaxValues,
                     " are sensible here. The file is none of this kind.");
  auto json = parse_json(text, file);
  SWITCHYARD_REQUIRE(json.is_object(), BadFile, "checkpoint: ", file, ", is no JSON object.");
  return json;
}

nlohmann::json parse_json(std::string_view text, const std::string& file,
                          const Json::parser_callback_t& keep) {
  check_nesting(text, file);
  const QuotedJson quoted(text);
  auto json = Json::parse(quoted.text(), keep, /*allow_exceptions=*/false);
  if (json.is_discarded()) refuse(quoted, file);
  return json;
}

// Brackets inside strings do not count. 64 levels: configs have five, a parser's stack bears
// thousands.
void check_nesting(std::string_view text, const std::string& file) {
  constexpr int kMaxDepth = 64;
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"')
      in_string = !in_string;
    else if (in_string && c == '\\')
      ++i;
    if (in_string) continue;
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    SWITCHYARD_REQUIRE(depth <= kMaxDepth, BadFile, "json: ", file, ", nests deeper than ",
                       kMaxDepth, " levels. The file is damaged.");
  }
}

// ---- typed reads

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
