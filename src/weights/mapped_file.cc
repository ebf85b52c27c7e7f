// src/weights/mapped_file.cc
#include "weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/require.h"

namespace switchyard {
namespace {

// What a clone without git-lfs leaves where a large file belongs.
void refuse_lfs_pointer(std::string_view text, const char* reader, const std::string& path) {
  constexpr std::string_view kPointer = "version https://git-lfs.github.com/spec/";
  constexpr std::string_view kSize = "\nsize ";
  if (!text.starts_with(kPointer)) return;
  text = text.substr(0, 1024);  // a pointer is shorter, says its specification
  std::string size = "?";
  if (const size_t at = text.find(kSize); at != text.npos) {
    text.remove_prefix(at + kSize.size());
    size = text.substr(0, text.find_first_not_of("0123456789"));
  }
  throw Error(Errc::BadFile, cat(reader, ": ", path, ", is a Git LFS pointer; the file of size=",
                                 size, " bytes is not here. Run git lfs pull in its folder."));
}

}  // namespace

std::string dangling(const std::filesystem::path& path) {
  std::error_code error;
  const auto target = std::filesystem::read_symlink(path, error);
  if (error || std::filesystem::exists(path, error)) return "";
  return cat(" is a link to ", target.string(), ", which does not exist. Download it again.");
}

MappedFile::MappedFile(const char* reader, const std::filesystem::path& path, uintmax_t max_bytes) {
  // O_NONBLOCK: opening a pipe waits for its writer, and a pipe is refused below.
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const std::string why = fd.fd() < 0 ? errno_text() : "", gone = dangling(path);
  SWITCHYARD_REQUIRE(fd.fd() >= 0 || gone.empty(), BadFile, reader, ": ", path.string(), ",", gone);
  SWITCHYARD_REQUIRE(fd.fd() >= 0, BadFile, reader, ": ", path.string(), ", cannot be opened (",
                     why, ").");
  struct stat info {};
  SWITCHYARD_REQUIRE(::fstat(fd.fd(), &info) == 0 && S_ISREG(info.st_mode), BadFile, reader, ": ",
                     path.string(), ", is no regular file.");
  size_ = static_cast<size_t>(info.st_size);
  SWITCHYARD_REQUIRE(size_ <= max_bytes, BadFile, reader, ": ", path.string(), ", bytes=", size_,
                     ", at most ", max_bytes, " are sensible here. The file is none of this kind.");
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.fd(), 0);
  SWITCHYARD_REQUIRE(address != MAP_FAILED, BadFile, reader, ": ", path.string(),
                     ", cannot be mapped (", errno_text(), ").");
  address_ = address;
  try {
    refuse_lfs_pointer(text(), reader, path.string());
  } catch (...) {
    ::munmap(address_, size_);
    throw;
  }
}

MappedFile::~MappedFile() {
  if (address_ != nullptr) ::munmap(address_, size_);
}

}  // namespace switchyard
