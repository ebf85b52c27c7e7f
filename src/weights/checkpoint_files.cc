// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/checkpoint_files.cc
#include "weights/checkpoint_files.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <mutex>
#include <regex>
#include <string_view>

#include "base/names_in.h"
#include "base/require.h"
#include "weights/file_bytes.h"
#include "weights/json_file.h"
#include "weights/text.h"

namespace switchyard {
namespace {

// ---- the folder of a model

namespace fs = std::filesystem;

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool is_present(const fs::path& path) {  // true for a link whose target is gone, too
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

bool holds_model(const fs::path& folder) {
  return is_present(folder / "config.json") || is_present(folder / "model.safetensors") ||
         is_present(folder / "model.safetensors.index.json");
}

// org/name, as the hub spells it.
bool is_hub_name(const std::string& text) {
  const size_t slash = text.find('/');
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
  const auto is_part = [&](std::string_view part) {
    return !part.empty() && part.front() != '.' &&
           part.find_first_not_of(kAllowed) == std::string_view::npos;
  };
  return slash != text.npos && is_part(text.substr(0, slash)) && is_part(text.substr(slash + 1));
}

[[noreturn]] void refuse_no_folder(const fs::path& path) {
  const std::string name = path.string(), gone = dangling(path);
  SWITCHYARD_REQUIRE(gone.empty(), BadFile, "checkpoint: ", name, ",", gone);
  SWITCHYARD_REQUIRE(is_present(path) || !is_hub_name(name), BadFile, "checkpoint: ", name,
                     ", is no folder. Download it first: hf download ", name,
                     " --local-dir DIR, then pass DIR.");
  throw Error(Errc::BadFile,
              cat("checkpoint: ", name, ", is no folder. Pass the folder that holds config.json."));
}

std::vector<std::string> folders_in(const fs::path& folder) {
  auto names = names_in(folder);
  std::erase_if(names, [&](const std::string& name) { return !is_folder(folder / name); });
  return names;
}

// " Its snapshots are a, b. Pass one of them." or how to get one.
std::string snapshots_of(const fs::path& folder) {
  const auto names = folders_in(folder);
  if (names.empty()) return "It holds no snapshot. Download the model again.";
  constexpr size_t kShown = 16;
  std::string list = joined(std::span(names).first(std::min(names.size(), kShown)));
  if (names.size() > kShown) list += cat(", ... (", names.size(), ")");
  return cat("Pass one of the snapshots in ", folder.string(), ": ", list, ".");
}

// The commit that refs/main holds; empty without one.
std::string main_of(const fs::path& model) {
  std::string commit;
  std::ifstream(model / "refs" / "main") >> commit;
  return commit;
}

fs::path main_snapshot(const fs::path& model) {
  const fs::path snapshots = model / "snapshots";
  const std::string commit = main_of(model);
  SWITCHYARD_REQUIRE(!commit.empty(), BadFile, "checkpoint: ", model.string(),
                     ", is a folder of the Hugging Face cache without refs/main. ",
                     snapshots_of(snapshots));
  const bool is_name = commit.find('/') == commit.npos && commit != "." && commit != "..";
  SWITCHYARD_REQUIRE(is_name && is_folder(snapshots / commit), BadFile,
                     "checkpoint: ", model.string(), ", refs/main names the snapshot ", commit,
                     ", which is not there. ", snapshots_of(snapshots));
  return snapshots / commit;
}

fs::path only_snapshot(const fs::path& snapshots) {
  const auto names = folders_in(snapshots);
  SWITCHYARD_REQUIRE(names.size() == 1, BadFile, "checkpoint: ", snapshots.string(), ", holds ",
                     names.size(), " snapshots, need one. ", snapshots_of(snapshots));
  return snapshots / names.front();
}

// ---- files without an index: their headers say what they hold

constexpr std::string_view kEnding = ".safetensors";

// model-00002-of-00003.safetensors: "model", 00002, 00003.
struct ShardName {
  std::string stem, number, count;
};

std::optional<ShardName> shard_name(const fs::path& path) {
  static const std::regex pattern(R"(([^]*)-([0-9]+)-of-([0-9]+)\.safetensors)");
  const std::string file = path.filename().string();
  std::smatch parts;
  if (!std::regex_match(file, parts, pattern)) return {};
  return ShardName{parts[1], parts[2], parts[3]};
}

// The first file that the names of the others speak of; empty when all are there.
std::string missing_shard(const std::vector<fs::path>& paths) {
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
  explicit FoundFiles(std::vector<fs::path> paths) : paths_(std::move(paths)) {
    for (const auto& path : paths_) try {
        files_.push_back(TensorFile::open(path));
      } catch (const Error& e) {
        if (e.code() != Errc::BadFile) throw;  // memory ran out: the file may be good
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

  void check_unchanged() const override {
    for (const auto& file : files_) file->check_unchanged();
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

  std::vector<fs::path> paths_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::string first_fault_;  // of a file that cannot be opened
};

// The safetensors files of a folder, in order: those named `<name>-00001-of-00003.safetensors` if
// there are such, else all.
std::vector<fs::path> find_safetensors(const fs::path& directory) {
  std::vector<fs::path> all, shards;
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
  explicit IndexedFiles(const fs::path& index)
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

  void check_unchanged() const override {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, file] : shards_)
      if (file) file->check_unchanged();
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
    const auto kind = fs::symlink_status(path, error).type();
    SWITCHYARD_REQUIRE(kind != fs::file_type::not_found && kind != fs::file_type::none, BadFile,
                       "checkpoint: tensor ", tensor, ", shard ", path.string(),
                       " is missing; its index names it. Download it again.");
    try {
      open = TensorFile::open(path);
    } catch (const Error& e) {
      throw Error(e.code(), cat("checkpoint: tensor ", tensor, ", ", e.what()));
    }
    return *open;
  }

  fs::path directory_;
  ShardIndex index_;
  mutable std::mutex mutex_;  // of shards_; ranks that are threads share a checkpoint
  mutable std::map<std::string, std::shared_ptr<const TensorFile>> shards_;  // the open ones
};

// ---- the choice

// False as well for what cannot be a file's name, and for a link whose target is gone.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_link(const fs::path& path) {
  std::error_code ignored;
  return fs::is_symlink(path, ignored);
}

// A file of the folder in a format that is not read; empty without one.
std::string other_format(const fs::path& directory) {
  for (const std::string& name : names_in(directory))
    for (const char* ending : {".bin", ".gguf", ".pth", ".pt", ".h5"})
      if (name.ends_with(ending)) return name;
  return "";
}

[[noreturn]] void refuse_empty(const fs::path& directory) {
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

fs::path find_model_folder(const fs::path& path) {
  if (!is_folder(path)) refuse_no_folder(path);
  if (holds_model(path)) return path;
  if (is_folder(path / "snapshots")) return main_snapshot(path);
  const fs::path named = path.has_filename() ? path : path.parent_path();  // "snapshots/"
  if (named.filename() == "snapshots" &&
      (is_folder(named / ".." / "blobs") || is_folder(named / ".." / "refs")))
    return only_snapshot(named);
  return path;
}

ShardIndex ShardIndex::read(const fs::path& path) {
  // Ten times what the largest published checkpoint has: 23.5 MB for 200,000 tensors.
  constexpr uintmax_t kMaxBytes = uintmax_t{256} << 20;
  return ShardIndex(read_text("checkpoint", path, kMaxBytes), path.string());
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

std::unique_ptr<const CheckpointFiles> CheckpointFiles::open(const fs::path& directory) {
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
