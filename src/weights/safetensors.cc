// src/weights/safetensors.cc -- map a file, or write one whole or not at all.
#include "switchyard/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/shape_text.h"
#include "weights/checkpoint_files.h"
#include "weights/json_file.h"
#include "weights/mapped_file.h"
#include "weights/text.h"

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

namespace switchyard {
namespace {

// ---- the header, checked before anything is used

using Json = nlohmann::json;

// The format's own limit.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

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

Json parse_object(std::string_view text, const std::string& file) {
  check_nesting(text, file);
  std::set<std::string> names;
  std::string twice;
  const auto note_name = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 &&
        !names.insert(value.get<std::string>()).second)
      twice = value.get<std::string>();
    return true;
  };
  Json header = Json::parse(text, note_name, /*allow_exceptions=*/false);
  SWITCHYARD_REQUIRE(
      header.is_object(), BadFile, "safetensors: ", file,
      ", the header is no JSON object. The file is damaged, or no safetensors file.");
  SWITCHYARD_REQUIRE(twice.empty(), BadFile, "safetensors: ", file, ", tensor ", twice,
                     " occurs twice.");
  return header;
}

// A JSON number that is a non-negative integer of 63 bits; -1 otherwise.
int64_t natural(const Json& value) {
  if (!value.is_number_unsigned()) return -1;
  const auto n = value.get<uint64_t>();
  return n <= static_cast<uint64_t>(INT64_MAX) ? static_cast<int64_t>(n) : -1;
}

// [a, b, ...] of natural numbers. Throws with `what`.
std::vector<int64_t> naturals(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  SWITCHYARD_REQUIRE(found != object.end() && found->is_array(), BadFile, where, ": ", key,
                     " is no array.");
  std::vector<int64_t> values;
  for (const Json& v : *found) {
    values.push_back(natural(v));
    SWITCHYARD_REQUIRE(values.back() >= 0, BadFile, where, ": ", key, " holds ",
                       v.dump().substr(0, 40), ", need non-negative integers.");
  }
  return values;
}

int64_t tensor_bytes(const TensorEntry& entry, int64_t bytes, const std::string& where) {
  for (const int64_t dim : entry.shape)
    SWITCHYARD_REQUIRE(!__builtin_mul_overflow(bytes, dim, &bytes), BadFile, where,
                       ": the product of the shape overflows 63 bits. The file is damaged.");
  return bytes;
}

TensorEntry parse_entry(const std::string& name, const Json& value, std::span<const std::byte> data,
                        const std::string& file) {
  const std::string where = cat("safetensors: ", file, ", tensor ", name);
  SWITCHYARD_REQUIRE(value.is_object(), BadFile, where, ": its description is no JSON object.");
  const auto dtype = value.find("dtype");
  SWITCHYARD_REQUIRE(dtype != value.end() && dtype->is_string(), BadFile, where,
                     ": dtype is no string.");
  TensorEntry entry{name, dtype->get<std::string>(), naturals(value, "shape", where), {}};
  const auto offsets = naturals(value, "data_offsets", where);
  SWITCHYARD_REQUIRE(offsets.size() == 2 && offsets[0] <= offsets[1], BadFile, where,
                     ": data_offsets are not [begin, end] with begin <= end.");
  SWITCHYARD_REQUIRE(offsets[1] <= static_cast<int64_t>(data.size()), BadFile, where,
                     ": data ends at ", offsets[1], ", the file holds ", data.size(),
                     " bytes of data. The file is truncated.");
  // Of a dtype that is newer than this library, or smaller than a byte, the size is not known. It
  // is refused where it is read.
  const int64_t bytes = offsets[1] - offsets[0], each = safetensors_dtype_bytes(entry.dtype);
  const int64_t needed = each > 0 ? tensor_bytes(entry, each, where) : bytes;
  SWITCHYARD_REQUIRE(bytes == needed, BadFile, where, ": data has ", bytes,
                     " bytes, dtype and shape need ", needed, ".");
  entry.bytes = data.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(bytes));
  return entry;
}

void check_overlap(const std::vector<TensorEntry>& entries, const std::string& file) {
  std::vector<const TensorEntry*> by_place;
  for (const auto& e : entries)
    if (!e.bytes.empty()) by_place.push_back(&e);
  std::ranges::sort(by_place, {}, [](auto* e) { return e->bytes.data(); });
  for (size_t i = 1; i < by_place.size(); ++i)
    SWITCHYARD_REQUIRE(
        by_place[i - 1]->bytes.data() + by_place[i - 1]->bytes.size() <= by_place[i]->bytes.data(),
        BadFile, "safetensors: ", file, ", tensors ", by_place[i - 1]->name, " and ",
        by_place[i]->name, " overlap. The file is damaged.");
}

// ---- files

struct LoadableDType {
  std::string_view name;
  DType dtype;
};
constexpr std::array kLoadable = {
    LoadableDType{"BF16", DType::Bf16}, LoadableDType{"F16", DType::F16},
    LoadableDType{"F32", DType::F32},   LoadableDType{"F64", DType::F64},
    LoadableDType{"I32", DType::I32},   LoadableDType{"I64", DType::I64},
};

std::string_view file_dtype(DType dtype) {
  for (const auto& l : kLoadable)
    if (l.dtype == dtype) return l.name;
  return "";
}

class MappedTensorFile final : public TensorFile {
 public:
  explicit MappedTensorFile(std::filesystem::path path)
      : path_(std::move(path)),
        mapping_("safetensors", path_),
        entries_(parse_safetensors(mapping_.bytes(), path_.string())) {}

  const std::filesystem::path& path() const override { return path_; }
  std::span<const TensorEntry> entries() const override { return entries_; }

  const TensorEntry* find(std::string_view name) const override {
    const auto at = std::ranges::lower_bound(entries_, name, {}, &TensorEntry::name);
    return at != entries_.end() && at->name == name ? &*at : nullptr;
  }

  ConstTensor tensor(std::string_view name) const override {
    const TensorEntry* entry = find(name);
    SWITCHYARD_REQUIRE(entry != nullptr, BadFile, "safetensors: ", path_.string(),
                       ", has no tensor ", name, nearest(name));
    const auto loadable = std::ranges::find(kLoadable, entry->dtype, &LoadableDType::name);
    SWITCHYARD_REQUIRE(loadable != kLoadable.end(), Unsupported, "safetensors: ", path_.string(),
                       ", tensor ", name, ": dtype=", entry->dtype,
                       ", load BF16, F16, F32, F64, I32 or I64.");
    SWITCHYARD_REQUIRE(entry->shape.size() <= Shape::kMaxRank, Unsupported, "safetensors: tensor ",
                       name, ": dimensions=", entry->shape.size(), ", at most ", Shape::kMaxRank,
                       ".");
    const auto address = reinterpret_cast<uintptr_t>(entry->bytes.data());
    SWITCHYARD_REQUIRE(address % static_cast<uintptr_t>(dtype_bytes(loadable->dtype)) == 0, BadFile,
                       "safetensors: tensor ", name,
                       " is not aligned to its dtype. Write the file with a padded header.");
    return {entry->bytes.data(), loadable->dtype, shape_of(*entry)};
  }

 private:
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

  std::filesystem::path path_;
  MappedFile mapping_;
  std::vector<TensorEntry> entries_;
};

std::string header_of(std::span<const NamedTensor> tensors) {
  Json header = nlohmann::json::object();
  int64_t offset = 0;
  for (const auto& t : tensors) {
    header[t.name] = {{"dtype", file_dtype(t.tensor.dtype)},
                      {"shape", extents(t.tensor.shape)},
                      {"data_offsets", {offset, offset + t.tensor.bytes()}}};
    offset += t.tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begins 8-byte aligned
  return text;
}

void write_all(int fd, const void* data, size_t bytes, const std::filesystem::path& path) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    SWITCHYARD_REQUIRE(written > 0, BadFile, "write_safetensors: ", path.string(),
                       ", cannot be written (", errno_text(), ").");
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

// A file beside the target that disappears unless it is published.
class DraftFile {
 public:
  explicit DraftFile(const std::filesystem::path& target)
      : target_(target), draft_(target.string() + ".XXXXXX"), fd_(::mkstemp(draft_.data())) {
    SWITCHYARD_REQUIRE(fd_.fd() >= 0, BadFile, "write_safetensors: ", target.string(),
                       ", cannot be created (", errno_text(), ").");
  }
  ~DraftFile() {
    if (!published_) ::unlink(draft_.c_str());
  }
  int fd() const { return fd_.fd(); }

  void publish() {
    const mode_t mask = ::umask(0);
    ::umask(mask);
    const bool good = ::fchmod(fd(), 0666 & ~mask) == 0 && ::fsync(fd()) == 0 &&
                      ::rename(draft_.c_str(), target_.c_str()) == 0;
    SWITCHYARD_REQUIRE(good, BadFile, "write_safetensors: ", target_.string(),
                       ", cannot be written (", errno_text(), ").");
    published_ = true;
  }

 private:
  std::filesystem::path target_;
  std::string draft_;
  FileDescriptor fd_;
  bool published_ = false;
};

}  // namespace

std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> file,
                                           const std::string& name) {
  SWITCHYARD_REQUIRE(file.size() >= 8, BadFile, "safetensors: ", name, ", bytes=", file.size(),
                     ", need at least 8. The file is truncated.");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), 8);
  SWITCHYARD_REQUIRE(header_bytes <= kMaxHeaderBytes && header_bytes <= file.size() - 8, BadFile,
                     "safetensors: ", name, ", header bytes=", header_bytes, ", the file has ",
                     file.size(), " bytes and the limit is ", kMaxHeaderBytes,
                     ". The file is truncated, or no safetensors file.");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
  const Json header = parse_object(text, name);
  const auto data = file.subspan(8 + header_bytes);

  std::vector<TensorEntry> entries;  // nlohmann's objects are ordered by key
  for (const auto& [key, value] : header.items())
    if (key != "__metadata__") entries.push_back(parse_entry(key, value, data, name));
  check_overlap(entries, name);
  return entries;
}

std::shared_ptr<const TensorFile> TensorFile::open(const std::filesystem::path& path) {
  return std::make_shared<MappedTensorFile>(path);
}

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors) {
  const std::string header = header_of(tensors);
  const uint64_t header_bytes = header.size();
  DraftFile file(path);
  write_all(file.fd(), &header_bytes, sizeof(header_bytes), path);
  write_all(file.fd(), header.data(), header.size(), path);
  for (const auto& t : tensors)
    write_all(file.fd(), t.tensor.data, static_cast<size_t>(t.tensor.bytes()), path);
  file.publish();
}

}  // namespace switchyard
