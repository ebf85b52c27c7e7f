// src/weights/shard_index.cc
#include "weights/shard_index.h"

#include <algorithm>

#include "base/require.h"
#include "weights/json_file.h"
#include "weights/mapped_file.h"

namespace switchyard {

ShardIndex ShardIndex::read(const std::filesystem::path& path) {
  // Ten times what the largest published checkpoint has: 23.5 MB for 200,000 tensors.
  constexpr uintmax_t kMaxBytes = uintmax_t{256} << 20;
  return ShardIndex(MappedFile("checkpoint", path, kMaxBytes).text(), path.string());
}

ShardIndex::ShardIndex(std::string_view text, std::string path) : path_(std::move(path)) {
  SWITCHYARD_REQUIRE(text.size() < UINT32_MAX, BadFile, "checkpoint: ", path_,
                     ", bytes=", text.size(), ", need less than 4 GiB.");
  SWITCHYARD_REQUIRE(read_map(text), BadFile, "checkpoint: ", path_, ", has no object weight_map.");
  SWITCHYARD_REQUIRE(!entries_.empty(), BadFile, "checkpoint: ", path_, ", names no files.");
  sort();
}

// Takes weight_map at the top and its entries as the parser meets them, and makes no tree of them.
bool ShardIndex::read_map(std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  std::string key, tensor;  // the last ones of the two upper levels
  bool has_map = false, in_map = false;
  parse_json(text, path_, [&](int depth, Event event, nlohmann::json& value) {
    if (event == Event::key && depth == 1) key = value.get<std::string>();
    if (event == Event::key && depth == 2) tensor = value.get<std::string>();
    const bool begins =
        event == Event::value || event == Event::object_start || event == Event::array_start;
    if (begins && depth == 1) {
      in_map = event == Event::object_start && key == "weight_map";
      if (key == "weight_map") has_map = in_map;
      if (in_map) {  // of two maps the last one counts, as it does in Python
        text_.clear();
        entries_.clear();
      }
    }
    if (begins && depth == 2 && in_map) add(tensor, value.get_ptr<const std::string*>());
    return depth == 0 || (depth == 1 && in_map && event != Event::key);
  });
  return has_map;
}

ShardIndex::Piece ShardIndex::keep(std::string_view text) {
  const Piece piece{static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(text.size())};
  text_ += text;
  return piece;
}

void ShardIndex::add(std::string_view tensor, const std::string* file) {
  const bool as_before = file && !entries_.empty() && entries_.back().file.size != kNoString &&
                         at(entries_.back().file) == *file;
  const Piece name = keep(tensor);
  entries_.push_back({name, !file       ? Piece{0, kNoString}
                            : as_before ? entries_.back().file
                                        : keep(*file)});
}

// By name; of equal names the last one stays.
void ShardIndex::sort() {
  std::ranges::sort(entries_, [this](const Entry& a, const Entry& b) {
    const int order = at(a.tensor).compare(at(b.tensor));
    return order != 0 ? order < 0 : a.tensor.begin > b.tensor.begin;
  });
  const auto last =
      std::unique(entries_.begin(), entries_.end(),
                  [this](const Entry& a, const Entry& b) { return at(a.tensor) == at(b.tensor); });
  entries_.erase(last, entries_.end());
}

const ShardIndex::Entry* ShardIndex::find(std::string_view tensor) const {
  const auto found = std::ranges::lower_bound(entries_, tensor, {},
                                              [this](const Entry& e) { return at(e.tensor); });
  return found != entries_.end() && at(found->tensor) == tensor ? &*found : nullptr;
}

std::string ShardIndex::file_of(const std::string& tensor) const {
  const Entry* entry = find(tensor);
  SWITCHYARD_REQUIRE(entry != nullptr, BadFile, "checkpoint: ", path_, ", tensor ", tensor,
                     ": the index names no file for it. Download both again.");
  SWITCHYARD_REQUIRE(entry->file.size != kNoString, BadFile, "checkpoint: ", path_, ", tensor ",
                     tensor, ": its file is no string. Download the index again.");
  std::string name(at(entry->file));
  const bool is_name = !name.empty() && name != "." && name != ".." &&
                       name.find_first_of(std::string("/\0", 2)) == std::string::npos;
  SWITCHYARD_REQUIRE(is_name, BadFile, "checkpoint: ", path_, ", tensor ", tensor, ": file=", name,
                     ", need a file name in the same folder.");
  return name;
}

}  // namespace switchyard
