// src/weights/safetensors.cc -- map a file, or write one whole or not at all.
#include "switchyard/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/shape_text.h"
#include "weights/mapped_file.h"
#include "weights/safetensors_header.h"
#include "weights/text.h"

namespace switchyard {
namespace {

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

std::string errno_text() {
  return std::strerror(errno);
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
  nlohmann::json header = nlohmann::json::object();
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
    SWITCHYARD_REQUIRE(fd_.get() >= 0, BadFile, "write_safetensors: ", target.string(),
                       ", cannot be created (", errno_text(), ").");
  }
  ~DraftFile() {
    if (!published_) ::unlink(draft_.c_str());
  }
  int fd() const { return fd_.get(); }

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
