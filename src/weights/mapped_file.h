// src/weights/mapped_file.h -- a file's bytes without a copy. Links without a target and Git LFS
// pointers are named.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/file_descriptor.h"

namespace switchyard {

class MappedFile {
 public:
  // `reader` begins the messages. Throws Error(BadFile): no regular file, cannot be opened, a link
  // whose target is gone, a Git LFS pointer, or larger than `max_bytes`.
  MappedFile(const char* reader, const std::filesystem::path& path,
             uintmax_t max_bytes = UINTMAX_MAX);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(address_), size_};
  }
  std::string_view text() const { return {static_cast<const char*>(address_), size_}; }

 private:
  void* address_ = nullptr;
  size_t size_ = 0;
};

// " is a link to X, which does not exist. ..." of a link whose target is gone; otherwise empty.
std::string dangling(const std::filesystem::path& path);

}  // namespace switchyard
