// src/weights/checkpoint_files.cc
#include "weights/checkpoint_files.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/require.h"
#include "weights/found_files.h"
#include "weights/indexed_files.h"

namespace switchyard {
namespace {

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
  constexpr std::array<std::string_view, 5> kEndings = {".bin", ".gguf", ".pth", ".pt", ".h5"};
  std::string first;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = file.path().filename().string();
    const bool is_one = std::any_of(kEndings.begin(), kEndings.end(),
                                    [&](std::string_view e) { return name.ends_with(e); });
    if (is_one && (first.empty() || name < first)) first = name;
  }
  return first;
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

std::unique_ptr<const NamedTensors> source_in(const std::filesystem::path& directory) {
  const auto single = directory / "model.safetensors",
             index = directory / "model.safetensors.index.json";
  if (is_there(single) || (is_link(single) && !is_there(index)))
    return std::make_unique<FoundFiles>(std::vector{single});
  if (is_there(index) || is_link(index)) return std::make_unique<IndexedFiles>(index);
  auto found = find_safetensors(directory);
  if (found.empty()) refuse_empty(directory);
  return std::make_unique<FoundFiles>(std::move(found));
}

}  // namespace

CheckpointFiles::CheckpointFiles(const std::filesystem::path& directory)
    : source_(source_in(directory)) {}

}  // namespace switchyard
