// src/weights/shard_index.cc
#include "weights/shard_index.h"

#include <algorithm>

#include "base/require.h"
#include "weights/json_events.h"
#include "weights/json_file.h"

namespace switchyard {

// Finds weight_map at the top and its entries; whatever else stands in the index is passed over.
class IndexEvents final : public JsonEvents {
 public:
  explicit IndexEvents(ShardIndex& index) : index_(index) {}

  bool has_map() const { return has_map_; }

  bool null() override { return value(nullptr); }
  bool boolean(bool) override { return value(nullptr); }
  bool number_integer(number_integer_t) override { return value(nullptr); }
  bool number_unsigned(number_unsigned_t) override { return value(nullptr); }
  bool number_float(number_float_t, const string_t&) override { return value(nullptr); }
  bool string(string_t& text) override { return value(&text); }
  bool binary(binary_t&) override { return value(nullptr); }
  bool start_array(size_t) override { return value(nullptr), ++depth_, true; }
  bool end_array() override { return --depth_, true; }

  bool start_object(size_t) override {
    value(nullptr);
    // Of two maps the last one counts, as it does in Python.
    if (depth_ == 1 && key_ == "weight_map") {
      index_.text_.clear();
      index_.entries_.clear();
      in_map_ = has_map_ = true;
    }
    ++depth_;
    is_object_ = is_object_ || depth_ == 1;
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1) in_map_ = false;
    return true;
  }
  bool key(string_t& name) override {
    if (is_object_ && depth_ <= 2) key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  bool value(const std::string* text) {
    if (depth_ == 1 && key_ == "weight_map") has_map_ = false;
    if (depth_ == 2 && in_map_) index_.add(key_, text);
    return true;
  }

  ShardIndex& index_;
  std::string key_;  // the last one of the two upper levels
  int depth_ = 0;
  bool is_object_ = false, in_map_ = false, has_map_ = false;
};

ShardIndex ShardIndex::read(const std::filesystem::path& path) {
  // Ten times what the largest published checkpoint has: 23.5 MB for 200,000 tensors.
  constexpr uintmax_t kMaxBytes = uintmax_t{256} << 20;
  return ShardIndex(map_json(path, kMaxBytes).text(), path.string());
}

ShardIndex::ShardIndex(std::string_view text, std::string path) : path_(std::move(path)) {
  SWITCHYARD_REQUIRE(text.size() < UINT32_MAX, BadFile, "checkpoint: ", path_,
                     ", bytes=", text.size(), ", need less than 4 GiB.");
  IndexEvents events(*this);
  read_json(text, path_, events);
  SWITCHYARD_REQUIRE(events.has_map(), BadFile, "checkpoint: ", path_,
                     ", has no object weight_map.");
  SWITCHYARD_REQUIRE(!entries_.empty(), BadFile, "checkpoint: ", path_, ", names no files.");
  sort();
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
  std::sort(entries_.begin(), entries_.end(), [this](const Entry& a, const Entry& b) {
    const int order = at(a.tensor).compare(at(b.tensor));
    return order != 0 ? order < 0 : a.tensor.begin > b.tensor.begin;
  });
  const auto last =
      std::unique(entries_.begin(), entries_.end(),
                  [this](const Entry& a, const Entry& b) { return at(a.tensor) == at(b.tensor); });
  entries_.erase(last, entries_.end());
}

const ShardIndex::Entry* ShardIndex::find(std::string_view tensor) const {
  const auto found = std::lower_bound(
      entries_.begin(), entries_.end(), tensor,
      [this](const Entry& e, std::string_view name) { return at(e.tensor) < name; });
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
