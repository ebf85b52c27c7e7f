// src/weights/model_folder.cc
#include "weights/model_folder.h"

#include <algorithm>
#include <fstream>

#include "base/require.h"
#include "weights/mapped_file.h"

namespace switchyard {
namespace {

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
  std::string list;
  for (size_t i = 0; i < names.size() && i < kShown; ++i) list += cat(i ? ", " : "", names[i]);
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

}  // namespace

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

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

}  // namespace switchyard
