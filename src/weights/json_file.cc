// src/weights/json_file.cc
#include "weights/json_file.h"

#include <algorithm>
#include <cctype>

#include "base/require.h"
#include "weights/mapped_file.h"
#include "weights/python_json.h"

namespace switchyard {
namespace {

using Json = nlohmann::json;

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

nlohmann::json read_json_object(const std::filesystem::path& path) {
  constexpr uintmax_t kMaxBytes = uintmax_t{16} << 20;  // configs have some kB
  return parse_json_object(MappedFile("checkpoint", path, kMaxBytes).text(), path.string());
}

nlohmann::json parse_json_object(std::string_view text, const std::string& file) {
  auto json = parse_json(text, file);
  SWITCHYARD_REQUIRE(json.is_object(), BadFile, "checkpoint: ", file, ", is no JSON object.");
  return json;
}

nlohmann::json parse_json(std::string_view text, const std::string& file,
                          const Json::parser_callback_t& keep) {
  check_nesting(text, file);
  auto json = Json::parse(PythonJson::begin(text), PythonJson::end(text), keep,
                          /*allow_exceptions=*/false);
  if (json.is_discarded()) refuse(text, file);
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

}  // namespace switchyard
