// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/file_bytes.h -- an open file whose bytes are read into memory of the caller. A mapping
// would end the process where the file shrinks or its disk fails; here that is an error.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/file_descriptor.h"

namespace switchyard {

// Thread-safe.
class FileBytes {
 public:
  // `reader` begins the messages. Throws Error(BadFile): no regular file, cannot be opened, a link
  // whose target is gone, a Git LFS pointer, or larger than `max_bytes`.
  FileBytes(const char* reader, std::filesystem::path path, uintmax_t max_bytes = UINTMAX_MAX);

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return info_.st_size; }  // when it was opened

  // Bytes from `begin` on; all lie in the file. Throws Error(BadFile) where they cannot be read, or
  // are not there any more.
  void read(std::span<std::byte> dst, int64_t begin) const;
  // The same as a text.
  std::string text(int64_t begin, int64_t count) const;
  // Throws Error(BadFile) where the file was written or truncated since it was opened: what was read
  // may be a part of either.
  void check_unchanged() const;

 private:
  const char* reader_;
  std::filesystem::path path_;
  FileDescriptor fd_;
  struct stat info_ {};
};

// The whole text of a small file, unchanged.
std::string read_text(const char* reader, const std::filesystem::path& path, uintmax_t max_bytes);

// " is a link to X, which does not exist. ..." of a link whose target is gone; otherwise empty.
std::string dangling(const std::filesystem::path& path);

}  // namespace switchyard
