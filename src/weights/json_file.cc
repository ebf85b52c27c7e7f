// src/weights/json_file.cc
#include "weights/json_file.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/require.h"
#include "weights/json_events.h"
#include "weights/json_nesting.h"
#include "weights/python_json.h"

namespace switchyard {
namespace {

using Json = nlohmann::json;

// Where a text stops being JSON.
struct FaultFinder final : JsonEvents {
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    read = position;
    return false;
  }
  size_t read = 0;  // characters, the one at fault too
};

// What stands on the line up to the word at `fault`.
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

[[noreturn]] void refuse(std::string_view text, const std::string& file) {
  FaultFinder fault;
  Json::sax_parse(PythonJson::begin(text), PythonJson::end(text), &fault);
  auto at = PythonJson::begin(text);
  const auto end = PythonJson::end(text);
  for (size_t left = fault.read; left > 1 && !(at == end); --left) ++at;
  const auto before = text.substr(0, at.position());
  const std::string where = cat("checkpoint: ", file, ", line ",
                                1 + std::count(before.begin(), before.end(), '\n'), ": ");
  SWITCHYARD_REQUIRE(!(at == end), BadFile, where,
                     "the text ends inside its JSON. The file is truncated; copy it again.");
  throw Error(Errc::BadFile, cat(where, "no JSON at the end of '", shown(text, at.position()),
                                 "'. Correct it, or copy the file again."));
}

}  // namespace

MappedFile map_json(const std::filesystem::path& path, uintmax_t max_bytes) {
  return MappedFile("checkpoint", path, max_bytes);
}

nlohmann::json read_json_object(const std::filesystem::path& path) {
  constexpr uintmax_t kMaxBytes = uintmax_t{16} << 20;  // configs have some kB
  return parse_json_object(map_json(path, kMaxBytes).text(), path.string());
}

nlohmann::json parse_json_object(std::string_view text, const std::string& file) {
  check_nesting(text, file);
  auto json = Json::parse(PythonJson::begin(text), PythonJson::end(text), nullptr,
                          /*allow_exceptions=*/false);
  if (json.is_discarded()) refuse(text, file);
  SWITCHYARD_REQUIRE(json.is_object(), BadFile, "checkpoint: ", file, ", is no JSON object.");
  return json;
}

void read_json(std::string_view text, const std::string& file, JsonEvents& events) {
  check_nesting(text, file);
  if (!Json::sax_parse(PythonJson::begin(text), PythonJson::end(text), &events)) refuse(text, file);
}

}  // namespace switchyard
