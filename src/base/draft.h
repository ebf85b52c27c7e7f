// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/draft.h -- a file appears whole or not at all, and replaces nothing but a file.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "base/file_descriptor.h"

namespace switchyard {

// The mode of the file that is replaced, if there is one. Throws Error(BadFile), which begins with
// `operation`, where `path` cannot be written or is no regular file. Creates nothing.
std::optional<mode_t> check_target(const char* operation, const std::filesystem::path& path);

// While it lives, a write beyond the limit on file size (ulimit -f) fails with EFBIG; by default its
// signal would end the process.
class FileSizeSignalIsBlocked {
 public:
  FileSizeSignalIsBlocked();
  ~FileSizeSignalIsBlocked();
  FileSizeSignalIsBlocked(const FileSizeSignalIsBlocked&) = delete;
  FileSizeSignalIsBlocked& operator=(const FileSizeSignalIsBlocked&) = delete;

 private:
  sigset_t signal_, before_;
};

// What becomes the target when it is published, and disappears otherwise. It has no name before
// where the file system knows such files: then a killed process leaves nothing behind, unless it was
// about to replace a file. What one leaves, the next draft of the target removes.
class Draft {
 public:
  // `operation` begins its errors and outlives it.
  Draft(const char* operation, const std::filesystem::path& target);
  ~Draft();
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  void write(std::span<const std::byte> bytes) const;
  void publish();

 private:
  FileDescriptor opened(const std::filesystem::path& path, int how) const;
  std::string name_beside() const;
  bool is_locked() const;
  void give_name();
  bool is_linked_as(const std::filesystem::path& name) const;
  [[noreturn]] void refuse_by_errno(const char* what) const;

  const FileSizeSignalIsBlocked guard_;
  const char* operation_;
  std::filesystem::path target_;
  std::optional<mode_t> replaced_mode_;
  FileDescriptor fd_;
  std::string link_from_, name_;
};

}  // namespace switchyard
