// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/file_bytes.cc
#include "weights/file_bytes.h"

#include <fcntl.h>

#include <algorithm>
#include <string_view>

#include "base/require.h"

namespace switchyard {
namespace {

// What a clone without git-lfs leaves where a large file belongs.
void refuse_lfs_pointer(const FileBytes& file, const char* reader) {
  constexpr std::string_view kPointer = "version https://git-lfs.github.com/spec/";
  constexpr std::string_view kSize = "\nsize ";
  // A pointer is shorter, says its specification.
  const std::string begin = file.text(0, std::min<int64_t>(file.size(), 1024));
  if (!begin.starts_with(kPointer)) return;
  std::string_view size = "?";
  if (const size_t at = begin.find(kSize); at != begin.npos) {
    size = std::string_view(begin).substr(at + kSize.size());
    size = size.substr(0, size.find_first_not_of("0123456789"));
  }
  throw Error(Errc::BadFile, cat(reader, ": ", file.path().string(),
                                 ", is a Git LFS pointer; the file of size=", size,
                                 " bytes is not here. Run git lfs pull in its folder."));
}

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

std::string dangling(const std::filesystem::path& path) {
  std::error_code error;
  const auto target = std::filesystem::read_symlink(path, error);
  if (error || std::filesystem::exists(path, error)) return "";
  return cat(" is a link to ", target.string(), ", which does not exist. Download it again.");
}

FileBytes::FileBytes(const char* reader, std::filesystem::path path, uintmax_t max_bytes)
    : reader_(reader),
      path_(std::move(path)),
      // O_NONBLOCK: opening a pipe waits for its writer, and a pipe is refused below.
      fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  const std::string why = fd_.open() ? "" : errno_text(), gone = dangling(path_);
  SWITCHYARD_REQUIRE(fd_.open() || gone.empty(), BadFile, reader, ": ", path_.string(), ",", gone);
  SWITCHYARD_REQUIRE(fd_.open(), BadFile, reader, ": ", path_.string(), ", cannot be opened (", why,
                     ").");
  SWITCHYARD_REQUIRE(::fstat(fd_.fd(), &info_) == 0 && S_ISREG(info_.st_mode), BadFile, reader,
                     ": ", path_.string(), ", is no regular file.");
  SWITCHYARD_REQUIRE(static_cast<uintmax_t>(size()) <= max_bytes, BadFile, reader, ": ",
                     path_.string(), ", bytes=", size(), ", at most ", max_bytes,
                     " are sensible here. The file is none of this kind.");
  refuse_lfs_pointer(*this, reader);
}

void FileBytes::read(std::span<std::byte> dst, int64_t begin) const {
  while (!dst.empty()) {
    const ssize_t count = ::pread(fd_.fd(), dst.data(), dst.size(), begin);
    if (count < 0 && errno == EINTR) continue;
    SWITCHYARD_REQUIRE(count >= 0, BadFile, reader_, ": ", path_.string(), ", byte=", begin,
                       ", cannot be read (", errno_text(), "). Copy the file again.");
    SWITCHYARD_REQUIRE(count > 0, BadFile, reader_, ": ", path_.string(), ", bytes=", begin,
                       ", had ", size(),
                       " when it was opened. Load it again when nothing writes it any more.");
    dst = dst.subspan(static_cast<size_t>(count));
    begin += count;
  }
}

std::string FileBytes::text(int64_t begin, int64_t count) const {
  std::string text(static_cast<size_t>(count), '\0');
  read(std::as_writable_bytes(std::span(text)), begin);
  return text;
}

void FileBytes::check_unchanged() const {
  struct stat now {};
  SWITCHYARD_REQUIRE(::fstat(fd_.fd(), &now) == 0, BadFile, reader_, ": ", path_.string(),
                     ", cannot be read (", errno_text(), "). Copy the file again.");
  SWITCHYARD_REQUIRE(now.st_size == info_.st_size && same_time(now.st_mtim, info_.st_mtim), BadFile,
                     reader_, ": ", path_.string(), ", bytes=", now.st_size,
                     ", was written since it was opened with ", size(),
                     ". Load it again when nothing writes it any more.");
}

std::string read_text(const char* reader, const std::filesystem::path& path, uintmax_t max_bytes) {
  const FileBytes file(reader, path, max_bytes);
  std::string text = file.text(0, file.size());
  file.check_unchanged();
  return text;
}

}  // namespace switchyard
