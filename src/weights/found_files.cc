// src/weights/found_files.cc
#include "weights/found_files.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/require.h"

namespace switchyard {
namespace {

constexpr std::string_view kEnding = ".safetensors", kOf = "-of-";

// model-00002-of-00003.safetensors: "model", 2, 3.
struct ShardName {
  std::string stem;
  std::string number;  // with its zeros
  std::string count;
};

// The digits that `text` ends with, taken from it.
std::string take_digits(std::string_view& text) {
  const size_t last = text.find_last_not_of("0123456789");
  const size_t begin = last == text.npos ? 0 : last + 1;
  std::string digits(text.substr(begin));
  text.remove_suffix(digits.size());
  return digits;
}

std::optional<ShardName> shard_name(const std::filesystem::path& path) {
  const std::string file = path.filename().string();
  std::string_view text = file;
  if (!text.ends_with(kEnding)) return {};
  text.remove_suffix(kEnding.size());
  ShardName name;
  name.count = take_digits(text);
  if (name.count.empty() || !text.ends_with(kOf)) return {};
  text.remove_suffix(kOf.size());
  name.number = take_digits(text);
  if (name.number.empty() || !text.ends_with('-')) return {};
  name.stem = text.substr(0, text.size() - 1);
  return name;
}

int64_t number_of(const std::string& digits) {
  int64_t n = 0;
  const auto error = std::from_chars(digits.data(), digits.data() + digits.size(), n).ec;
  return error == std::errc() ? n : 0;
}

// The first file that the names of the others speak of; empty when all are there.
std::string missing_shard(const std::vector<std::filesystem::path>& paths) {
  const auto name = paths.empty() ? std::nullopt : shard_name(paths.front());
  if (!name) return "";
  const int64_t count = number_of(name->count);
  // One more than there are files is enough to find one that is missing.
  const auto look_at = std::min<int64_t>(count, static_cast<int64_t>(paths.size()) + 1);
  for (int64_t i = 1; i <= look_at; ++i) {
    std::string digits = std::to_string(i);
    if (digits.size() < name->number.size())
      digits.insert(0, name->number.size() - digits.size(), '0');
    const auto path =
        paths.front().parent_path() / cat(name->stem, "-", digits, kOf, name->count, kEnding);
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) return path.string();
  }
  return "";
}

}  // namespace

FoundFiles::FoundFiles(std::vector<std::filesystem::path> paths) : paths_(std::move(paths)) {
  for (const auto& path : paths_) try {
      files_.push_back(TensorFile::open(path));
    } catch (const Error& e) {
      if (first_fault_.empty()) first_fault_ = e.what();
    }
  if (files_.empty()) throw Error(Errc::BadFile, first_fault_);
}

bool FoundFiles::has(const std::string& name) const {
  return std::any_of(files_.begin(), files_.end(),
                     [&](const auto& file) { return file->find(name) != nullptr; });
}

const TensorEntry& FoundFiles::entry(const std::string& name) const {
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

void FoundFiles::refuse_missing(const std::string& name) const {
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

void FoundFiles::for_each_name(const std::function<void(const std::string&)>& visit) const {
  std::vector<const std::string*> names;
  for (const auto& file : files_)
    for (const auto& entry : file->entries()) names.push_back(&entry.name);
  std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return *a < *b; });
  const auto last =
      std::unique(names.begin(), names.end(), [](auto* a, auto* b) { return *a == *b; });
  std::for_each(names.begin(), last, [&](const std::string* name) { visit(*name); });
}

std::vector<std::filesystem::path> find_safetensors(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> all, shards;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory, error)) {
    if (!file.path().filename().string().ends_with(kEnding)) continue;
    all.push_back(file.path());
    if (shard_name(file.path())) shards.push_back(file.path());
  }
  auto& found = shards.empty() ? all : shards;
  std::sort(found.begin(), found.end());
  return std::move(found);
}

}  // namespace switchyard
