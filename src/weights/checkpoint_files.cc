// src/weights/checkpoint_files.cc
#include "weights/checkpoint_files.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <regex>
#include <string_view>

#include "base/require.h"
#include "weights/model_folder.h"
#include "weights/shard_index.h"
#include "weights/text.h"

namespace switchyard {
namespace {

// ---- files without an index: their headers say what they hold

constexpr std::string_view kEnding = ".safetensors";

// model-00002-of-00003.safetensors: "model", 00002, 00003.
struct ShardName {
  std::string stem, number, count;
};

std::optional<ShardName> shard_name(const std::filesystem::path& path) {
  static const std::regex pattern(R"(([^]*)-([0-9]+)-of-([0-9]+)\.safetensors)");
  const std::string file = path.filename().string();
  std::smatch parts;
  if (!std::regex_match(file, parts, pattern)) return {};
  return ShardName{parts[1], parts[2], parts[3]};
}

// The first file that the names of the others speak of; empty when all are there.
std::string missing_shard(const std::vector<std::filesystem::path>& paths) {
  const auto name = paths.empty() ? std::nullopt : shard_name(paths.front());
  if (!name) return "";
  const int64_t count = integer_of(name->count).value_or(0);
  // One more than there are files is enough to find one that is missing.
  const auto look_at = std::min<int64_t>(count, static_cast<int64_t>(paths.size()) + 1);
  for (int64_t i = 1; i <= look_at; ++i) {
    std::string digits = std::to_string(i);
    if (digits.size() < name->number.size())
      digits.insert(0, name->number.size() - digits.size(), '0');
    const auto path =
        paths.front().parent_path() / cat(name->stem, "-", digits, "-of-", name->count, kEnding);
    if (std::ranges::find(paths, path) == paths.end()) return path.string();
  }
  return "";
}

class FoundFiles final : public CheckpointFiles {
 public:
  // Throws Error(BadFile) where none of them can be opened. One that cannot is named when a tensor
  // is missing, which it may hold.
  explicit FoundFiles(std::vector<std::filesystem::path> paths) : paths_(std::move(paths)) {
    for (const auto& path : paths_) try {
        files_.push_back(TensorFile::open(path));
      } catch (const Error& e) {
        if (first_fault_.empty()) first_fault_ = e.what();
      }
    if (files_.empty()) throw Error(Errc::BadFile, first_fault_);
  }

  bool has(const std::string& name) const override {
    return std::ranges::any_of(files_,
                               [&](const auto& file) { return file->find(name) != nullptr; });
  }

  const TensorEntry& entry(const std::string& name) const override {
    const TensorFile* holder = nullptr;
    for (const auto& file : files_) {
      if (file->find(name) == nullptr) continue;
      SWITCHYARD_REQUIRE(holder == nullptr, BadFile, "checkpoint: tensor ", name, " stands in ",
                         holder->path().string(), " and in ", file->path().filename().string(),
                         ", need one. Take away the file that does not belong here.");
      holder = file.get();
    }
    if (holder == nullptr) refuse_missing(name);
    return *holder->find(name);
  }

  void for_each_name(const std::function<void(const std::string&)>& visit) const override {
    std::vector<const std::string*> names;
    for (const auto& file : files_)
      for (const auto& entry : file->entries()) names.push_back(&entry.name);
    std::ranges::sort(names, [](auto* a, auto* b) { return *a < *b; });
    const auto last =
        std::unique(names.begin(), names.end(), [](auto* a, auto* b) { return *a == *b; });
    std::for_each(names.begin(), last, [&](const std::string* name) { visit(*name); });
  }

 private:
  [[noreturn]] void refuse_missing(const std::string& name) const {
    const auto folder = paths_.front().parent_path().string();
    const std::string missing = missing_shard(paths_);
    SWITCHYARD_REQUIRE(missing.empty(), BadFile, "checkpoint: tensor ", name, ", shard ", missing,
                       " is missing, and no other holds it. Download it again.");
    SWITCHYARD_REQUIRE(first_fault_.empty(), BadFile, "checkpoint: ", folder, ", has no tensor ",
                       name, " in files that can be read. ", first_fault_);
    if (paths_.front().filename() == "model.safetensors")
      files_.front()->tensor(name);  // throws, with the nearest name
    throw Error(Errc::BadFile, cat("checkpoint: ", folder,
                                   ", has neither model.safetensors nor "
                                   "model.safetensors.index.json, and in its other ",
                                   files_.size(), " safetensors files no tensor ", name,
                                   ". Download the files that are missing."));
  }

  std::vector<std::filesystem::path> paths_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::string first_fault_;  // of a file that cannot be opened
};

// The safetensors files of a folder, in order: those named `<name>-00001-of-00003.safetensors` if
// there are such, else all.
std::vector<std::filesystem::path> find_safetensors(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> all, shards;
  for (const std::string& name : names_in(directory)) {
    if (!name.ends_with(kEnding)) continue;
    all.push_back(directory / name);
    if (shard_name(name)) shards.push_back(directory / name);
  }
  return shards.empty() ? all : shards;
}

// ---- shards by their index, opened when a tensor of theirs is needed

class IndexedFiles final : public CheckpointFiles {
 public:
  explicit IndexedFiles(const std::filesystem::path& index)
      : directory_(index.parent_path()), index_(ShardIndex::read(index)) {}

  bool has(const std::string& name) const override { return index_.has(name); }
  const TensorEntry& entry(const std::string& name) const override {
    const std::string file = index_.file_of(name);
    const TensorEntry* found = shard(file, name).find(name);
    SWITCHYARD_REQUIRE(found != nullptr, BadFile, "checkpoint: ", index_.path(), ", tensor ", name,
                       ": is not in ", file,
                       ". The index does not fit its files; download both again.");
    return *found;
  }

  void for_each_name(const std::function<void(const std::string&)>& visit) const override {
    for (size_t i = 0; i < index_.size(); ++i) visit(std::string(index_.tensor(i)));
  }

 private:
  const TensorFile& shard(const std::string& file, const std::string& tensor) const {
    const std::lock_guard lock(mutex_);
    auto& open = shards_[file];
    if (open) return *open;
    const auto path = directory_ / file;
    std::error_code error;
    const auto kind = std::filesystem::symlink_status(path, error).type();
    SWITCHYARD_REQUIRE(
        kind != std::filesystem::file_type::not_found && kind != std::filesystem::file_type::none,
        BadFile, "checkpoint: tensor ", tensor, ", shard ", path.string(),
        " is missing; its index names it. Download it again.");
    try {
      open = TensorFile::open(path);
    } catch (const Error& e) {
      throw Error(e.code(), cat("checkpoint: tensor ", tensor, ", ", e.what()));
    }
    return *open;
  }

  std::filesystem::path directory_;
  ShardIndex index_;
  mutable std::mutex mutex_;  // of shards_; ranks that are threads share a checkpoint
  mutable std::map<std::string, std::shared_ptr<const TensorFile>> shards_;  // the open ones
};

// ---- the choice

// False as well for what cannot be a file's name, and for a link whose target is gone.
bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

bool is_link(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_symlink(path, ignored);
}

// A file of the folder in a format that is not read; empty without one.
std::string other_format(const std::filesystem::path& directory) {
  for (const std::string& name : names_in(directory))
    for (const char* ending : {".bin", ".gguf", ".pth", ".pt", ".h5"})
      if (name.ends_with(ending)) return name;
  return "";
}

[[noreturn]] void refuse_empty(const std::filesystem::path& directory) {
  const std::string other = other_format(directory);
  SWITCHYARD_REQUIRE(other.empty(), BadFile, "checkpoint: ", directory.string(),
                     ", holds no safetensors but ", other,
                     ", and PyTorch's .bin and .pth, .gguf and .h5 are not read. Download the "
                     "safetensors files, or save it again with safe_serialization=True.");
  throw Error(Errc::BadFile, cat("checkpoint: ", directory.string(),
                                 ", has neither model.safetensors nor "
                                 "model.safetensors.index.json nor another safetensors file. "
                                 "Download them into it."));
}

}  // namespace

std::unique_ptr<const CheckpointFiles> CheckpointFiles::open(
    const std::filesystem::path& directory) {
  const auto single = directory / "model.safetensors",
             index = directory / "model.safetensors.index.json";
  if (is_there(single) || (is_link(single) && !is_there(index)))
    return std::make_unique<FoundFiles>(std::vector{single});
  if (is_there(index) || is_link(index)) return std::make_unique<IndexedFiles>(index);
  auto found = find_safetensors(directory);
  if (found.empty()) refuse_empty(directory);
  return std::make_unique<FoundFiles>(std::move(found));
}

}  // namespace switchyard
