// src/weights/found_files.h -- safetensors files without an index: their headers say what they
// hold.
#pragma once

#include <vector>

#include "weights/checkpoint_files.h"

namespace switchyard {

class FoundFiles final : public NamedTensors {
 public:
  // Throws Error(BadFile) where none of them can be opened. One that cannot is named when a tensor
  // is missing, which it may hold.
  explicit FoundFiles(std::vector<std::filesystem::path> paths);

  bool has(const std::string& name) const override;
  const TensorEntry& entry(const std::string& name) const override;
  void for_each_name(const std::function<void(const std::string&)>& visit) const override;

 private:
  [[noreturn]] void refuse_missing(const std::string& name) const;

  std::vector<std::filesystem::path> paths_;
  std::vector<std::shared_ptr<const TensorFile>> files_;
  std::string first_fault_;  // of a file that cannot be opened
};

// The safetensors files of a folder, in order: those named `<name>-00001-of-00003.safetensors` if
// there are such, else all.
std::vector<std::filesystem::path> find_safetensors(const std::filesystem::path& directory);

}  // namespace switchyard
