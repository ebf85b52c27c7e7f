// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/safetensors.cc -- open a file: its header is checked, its tensors are read when asked.
#include "switchyard/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/as_error.h"
#include "weights/checkpoint_files.h"
#include "weights/file_bytes.h"
#include "weights/safetensors_format.h"
#include "weights/text.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

namespace switchyard {
namespace {

// ---- the header, checked before anything is used

using Json = nlohmann::json;

struct DTypeSize {
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kDTypes = {
    DTypeSize{"F64", 8},  DTypeSize{"F32", 4},     DTypeSize{"F16", 2},     DTypeSize{"BF16", 2},
    DTypeSize{"I64", 8},  DTypeSize{"I32", 4},     DTypeSize{"I16", 2},     DTypeSize{"I8", 1},
    DTypeSize{"U64", 8},  DTypeSize{"U32", 4},     DTypeSize{"U16", 2},     DTypeSize{"U8", 1},
    DTypeSize{"BOOL", 1}, DTypeSize{"F8_E4M3", 1}, DTypeSize{"F8_E5M2", 1}, DTypeSize{"F8_E8M0", 1},
    DTypeSize{"C64", 8},
};

// Of one element; 0 for a dtype that is not known, or smaller than a byte.
int64_t safetensors_dtype_bytes(std::string_view dtype) {
  for (const auto& d : kDTypes)
    if (d.name == dtype) return d.bytes;
  return 0;
}

// Takes of a header what describes tensors, as its parser meets it. It makes no tree: metadata and
// keys that are not known are passed over.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(int64_t data_begin, int64_t data_bytes, const std::string& file)
      : data_begin_(data_begin), data_bytes_(data_bytes), file_(file) {}

  std::vector<TensorEntry> take() { return std::move(entries_); }

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(value ? "true" : "false"); }
  bool number_integer(int64_t value) override { return other(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { return other(text); }
  bool binary(Json::binary_t&) override { return false; }  // no JSON
  bool parse_error(size_t, const std::string&, const Json::exception&) override { return false; }

  bool number_unsigned(uint64_t value) override {
    const bool fits = depth_ == 3 && numbers_ != nullptr && value <= uint64_t{INT64_MAX};
    if (!fits) return other(std::to_string(value));
    SWITCHYARD_REQUIRE(numbers_->size() < kMaxNumbers, BadFile, where(), ": ", key_,
                       " holds more than ", kMaxNumbers, " numbers. The file is damaged.");
    numbers_->push_back(static_cast<int64_t>(value));
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ != 2 || !in_tensor_ || key_ != "dtype") return other(cat('"', value, '"'));
    entry_.dtype = std::move(value);
    seen_.dtype = true;
    return true;
  }
  bool start_object(size_t) override { return other("{") && deeper(); }
  bool start_array(size_t) override {
    if (depth_ == 0) return false;
    if (depth_ == 2 && in_tensor_) begin_numbers();
    return (numbers_ != nullptr && depth_ == 2 ? true : other("[")) && deeper();
  }
  bool key(std::string& name) override {
    if (depth_ == 1) {
      in_tensor_ = name != "__metadata__";
      if (in_tensor_) begin_tensor(std::move(name));
    } else if (depth_ == 2) {
      key_ = std::move(name);
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1 && in_tensor_) end_tensor();
    return true;
  }
  bool end_array() override {
    if (--depth_ == 2) numbers_ = nullptr;
    return true;
  }

 private:
  static constexpr size_t kMaxNumbers = 64;  // of a shape; PyTorch and NumPy have as many
  static constexpr int kMaxDepth = 64;       // a header has three; a parser's memory bears more

  struct Seen {
    bool dtype = false, shape = false, offsets = false;
  };

  std::string where() const { return cat("safetensors: ", file_, ", tensor ", entry_.name); }

  bool deeper() {
    SWITCHYARD_REQUIRE(++depth_ <= kMaxDepth, BadFile, "safetensors: ", file_,
                       ", the header nests deeper than ", kMaxDepth,
                       " levels. The file is damaged.");
    return true;
  }
  // A value that is none of those a tensor is described by, or stands where none of them does.
  bool other(const std::string& value) {
    if (depth_ == 0) return value == "{";
    if (!in_tensor_) return true;
    SWITCHYARD_REQUIRE(depth_ > 1 || value == "{", BadFile, where(),
                       ": its description is no JSON object.");
    if (depth_ == 2) return refuse_field();
    SWITCHYARD_REQUIRE(numbers_ == nullptr, BadFile, where(), ": ", key_, " holds ",
                       value.substr(0, 40), ", need non-negative integers.");
    return true;
  }
  bool refuse_field() const {
    SWITCHYARD_REQUIRE(key_ != "dtype", BadFile, where(), ": dtype is no string.");
    SWITCHYARD_REQUIRE(key_ != "shape" && key_ != "data_offsets", BadFile, where(), ": ", key_,
                       " is no array.");
    return true;
  }
  void begin_tensor(std::string name) {
    entry_ = {};
    entry_.name = std::move(name);
    seen_ = {};
  }
  void begin_numbers() {
    if (key_ == "shape") numbers_ = &entry_.shape, seen_.shape = true;
    if (key_ == "data_offsets") numbers_ = &offsets_, seen_.offsets = true;
    if (numbers_ != nullptr) numbers_->clear();  // of two the last one counts, as in Python
  }
  void end_tensor() {
    SWITCHYARD_REQUIRE(seen_.dtype, BadFile, where(), ": dtype is no string.");
    SWITCHYARD_REQUIRE(seen_.shape, BadFile, where(), ": shape is no array.");
    SWITCHYARD_REQUIRE(seen_.offsets, BadFile, where(), ": data_offsets is no array.");
    SWITCHYARD_REQUIRE(offsets_.size() == 2 && offsets_[0] <= offsets_[1], BadFile, where(),
                       ": data_offsets are not [begin, end] with begin <= end.");
    SWITCHYARD_REQUIRE(offsets_[1] <= data_bytes_, BadFile, where(), ": data ends at ", offsets_[1],
                       ", the file holds ", data_bytes_, " bytes of data. The file is truncated.");
    // Of a dtype that is newer than this library, or smaller than a byte, the size is not known.
    // It is refused where it is read.
    const int64_t bytes = offsets_[1] - offsets_[0], each = safetensors_dtype_bytes(entry_.dtype);
    const int64_t needed = each > 0 ? tensor_bytes(entry_, each) : bytes;
    SWITCHYARD_REQUIRE(bytes == needed, BadFile, where(), ": data has ", bytes,
                       " bytes, dtype and shape need ", needed, ".");
    entry_.begin = data_begin_ + offsets_[0];
    entry_.num_bytes = bytes;
    entries_.push_back(std::move(entry_));
  }
  int64_t tensor_bytes(const TensorEntry& entry, int64_t bytes) const {
    for (const int64_t dim : entry.shape)
      SWITCHYARD_REQUIRE(!__builtin_mul_overflow(bytes, dim, &bytes), BadFile, where(),
                         ": the product of the shape overflows 63 bits. The file is damaged.");
    return bytes;
  }

  const int64_t data_begin_, data_bytes_;
  const std::string& file_;
  std::vector<TensorEntry> entries_;
  int depth_ = 0;
  bool in_tensor_ = false;  // not in metadata
  TensorEntry entry_;       // the one that is read
  std::vector<int64_t> offsets_;
  Seen seen_;
  std::string key_;                          // of entry_
  std::vector<int64_t>* numbers_ = nullptr;  // in a list of them
};

void sort_by_name(std::vector<TensorEntry>& entries, const std::string& file) {
  std::ranges::sort(entries, {}, &TensorEntry::name);
  const auto twice = std::ranges::adjacent_find(entries, {}, &TensorEntry::name);
  SWITCHYARD_REQUIRE(twice == entries.end(), BadFile, "safetensors: ", file, ", tensor ",
                     twice->name, " occurs twice.");
}

void check_overlap(const std::vector<TensorEntry>& entries, const std::string& file) {
  std::vector<const TensorEntry*> by_place;
  for (const auto& e : entries)
    if (e.num_bytes > 0) by_place.push_back(&e);
  std::ranges::sort(by_place, {}, [](auto* e) { return e->begin; });
  for (size_t i = 1; i < by_place.size(); ++i)
    SWITCHYARD_REQUIRE(by_place[i - 1]->begin + by_place[i - 1]->num_bytes <= by_place[i]->begin,
                       BadFile, "safetensors: ", file, ", tensors ", by_place[i - 1]->name, " and ",
                       by_place[i]->name, " overlap. The file is damaged.");
}

// ---- files

std::vector<TensorEntry> read_entries(const FileBytes& file) {
  const std::string name = file.path().string();
  std::array<std::byte, kLengthBytes + 1> head;
  const auto there =
      std::span(head).first(static_cast<size_t>(std::min<int64_t>(file.size(), head.size())));
  file.read(there, 0);
  const int64_t bytes = safetensors_header_bytes(there, file.size(), name);
  const std::string header = file.text(kLengthBytes, bytes);
  auto entries =
      parse_safetensors(header, file.size() - static_cast<int64_t>(kLengthBytes) - bytes, name);
  file.check_unchanged();
  return entries;
}

std::shared_ptr<void> owned_memory(int64_t bytes, const std::string& tensor) {
  constexpr int64_t kAlign = 64;  // more than any dtype asks for
  const auto room = static_cast<size_t>((bytes / kAlign + 1) * kAlign);
  std::shared_ptr<void> memory(std::aligned_alloc(kAlign, room), std::free);
  SWITCHYARD_REQUIRE(memory != nullptr, Unsupported, "safetensors: tensor ", tensor,
                     ": bytes=", bytes, ", more than there is memory for.");
  return memory;
}

class OpenTensorFile final : public TensorFile {
 public:
  explicit OpenTensorFile(std::filesystem::path path)
      : file_("safetensors", std::move(path)), entries_(read_entries(file_)) {
    for (auto& entry : entries_) entry.file = &file_;
  }

  const std::filesystem::path& path() const override { return file_.path(); }
  std::span<const TensorEntry> entries() const override { return entries_; }

  const TensorEntry* find(std::string_view name) const override {
    const auto at = std::ranges::lower_bound(entries_, name, {}, &TensorEntry::name);
    return at != entries_.end() && at->name == name ? &*at : nullptr;
  }

  ConstTensor tensor(std::string_view name) const override {
    return as_errors("safetensors", [&] { return read(name); });
  }

  void check_unchanged() const override { file_.check_unchanged(); }

 private:
  ConstTensor read(std::string_view name) const {
    const TensorEntry* entry = find(name);
    SWITCHYARD_REQUIRE(entry != nullptr, BadFile, "safetensors: ", path().string(),
                       ", has no tensor ", name, nearest(name));
    const auto loadable = std::ranges::find(kLoadableDTypes, entry->dtype, &LoadableDType::name);
    SWITCHYARD_REQUIRE(loadable != kLoadableDTypes.end(), Unsupported,
                       "safetensors: ", path().string(), ", tensor ", name,
                       ": dtype=", entry->dtype, ", load BF16, F16, F32, F64, I32 or I64.");
    SWITCHYARD_REQUIRE(entry->shape.size() <= Shape::kMaxRank, Unsupported, "safetensors: tensor ",
                       name, ": dimensions=", entry->shape.size(), ", at most ", Shape::kMaxRank,
                       ".");
    return {kept(*entry), loadable->dtype, shape_of(*entry)};
  }

  static Shape shape_of(const TensorEntry& entry) {
    const auto& s = entry.shape;
    switch (s.size()) {
      case 0: return {1};  // a scalar
      case 1: return {s[0]};
      case 2: return {s[0], s[1]};
      case 3: return {s[0], s[1], s[2]};
      default: return {s[0], s[1], s[2], s[3]};
    }
  }

  std::string nearest(std::string_view name) const {
    if (entries_.empty()) return "; it has none.";
    const auto best = std::ranges::max_element(
        entries_, {}, [&](const auto& e) { return common_prefix(e.name, name); });
    return cat("; the nearest of its ", entries_.size(), " is ", best->name, ".");
  }

  // Its bytes, read once.
  const void* kept(const TensorEntry& entry) const {
    const std::lock_guard lock(mutex_);
    auto& memory = kept_[&entry];
    if (memory) return memory.get();
    auto read = owned_memory(entry.num_bytes, entry.name);
    entry.read({static_cast<std::byte*>(read.get()), static_cast<size_t>(entry.num_bytes)});
    check_unchanged();
    memory = std::move(read);
    return memory.get();
  }

  FileBytes file_;
  std::vector<TensorEntry> entries_;
  mutable std::mutex mutex_;  // of kept_
  mutable std::map<const TensorEntry*, std::shared_ptr<void>> kept_;
};

}  // namespace

void TensorEntry::read(std::span<std::byte> dst, int64_t first) const {
  SWITCHYARD_REQUIRE(
      first >= 0 && first <= num_bytes && static_cast<int64_t>(dst.size()) <= num_bytes - first,
      BadFile, "safetensors: tensor ", name, ": bytes=", dst.size(), " from ", first,
      " on, it has ", num_bytes, ".");
  file->read(dst, begin + first);
}

int64_t safetensors_header_bytes(std::span<const std::byte> head, int64_t file_bytes,
                                 const std::string& name) {
  SWITCHYARD_REQUIRE(head.size() >= kLengthBytes, BadFile, "safetensors: ", name,
                     ", bytes=", file_bytes, ", need at least 8. The file is truncated.");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, head.data(), kLengthBytes);
  SWITCHYARD_REQUIRE(
      header_bytes <= kMaxHeaderBytes &&
          static_cast<int64_t>(header_bytes) <= file_bytes - static_cast<int64_t>(kLengthBytes),
      BadFile, "safetensors: ", name, ", header bytes=", header_bytes, ", the file has ",
      file_bytes, " bytes and the limit is ", kMaxHeaderBytes,
      ". The file is truncated, or no safetensors file.");
  const bool is_object = head.size() > kLengthBytes && head[kLengthBytes] == std::byte{'{'};
  SWITCHYARD_REQUIRE(is_object, BadFile, "safetensors: ", name,
                     ", the header is no JSON object. The file is damaged, or no safetensors "
                     "file.");
  return static_cast<int64_t>(header_bytes);
}

std::vector<TensorEntry> parse_safetensors(std::string_view header, int64_t data_bytes,
                                           const std::string& name) {
  const auto data_begin = static_cast<int64_t>(kLengthBytes + header.size());
  HeaderReader reader(data_begin, data_bytes, name);
  SWITCHYARD_REQUIRE(Json::sax_parse(header, &reader), BadFile, "safetensors: ", name,
                     ", the header is no JSON object. The file is damaged, or no safetensors "
                     "file.");
  auto entries = reader.take();
  sort_by_name(entries, name);
  check_overlap(entries, name);
  return entries;
}

std::shared_ptr<const TensorFile> TensorFile::open(const std::filesystem::path& path) {
  return as_errors("safetensors", [&] { return std::make_shared<OpenTensorFile>(path); });
}

}  // namespace switchyard
