// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/write_safetensors.cc -- a file appears whole or not at all, and replaces nothing but
// a file.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <span>

#include "base/as_error.h"
#include "base/file_descriptor.h"
#include "base/shape_text.h"
#include "switchyard/safetensors.h"
#include "weights/checkpoint_files.h"
#include "weights/safetensors_format.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

// ---- what is written

std::string_view file_dtype(DType dtype) {
  const auto found = std::ranges::find(kLoadableDTypes, dtype, &LoadableDType::dtype);
  return found != kLoadableDTypes.end() ? found->name : "";
}

bool is_utf8(const std::string& text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

void check_tensors(std::span<const NamedTensor> tensors) {
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    const auto where = cat("write_safetensors: tensor ", name);
    SWITCHYARD_REQUIRE(is_utf8(name), BadFile, where, ": its name is no UTF-8. Rename it.");
    SWITCHYARD_REQUIRE(name != kMetadata, BadFile, where,
                       ": the format keeps this name for itself. Rename it.");
    SWITCHYARD_REQUIRE(names.insert(name).second, BadFile, where,
                       ": is given twice. Give each name once.");
    SWITCHYARD_REQUIRE(tensor.present() && (tensor.data != nullptr || tensor.bytes() == 0), BadFile,
                       where, ": is absent. Leave it out.");
    SWITCHYARD_REQUIRE(tensor.device == DeviceKind::Cpu, BadFile, where,
                       ": device=", device_name(tensor.device), ", need cpu. Copy it first.");
    SWITCHYARD_REQUIRE(!file_dtype(tensor.dtype).empty(), BadFile, where,
                       ": dtype=", dtype_name(tensor.dtype), ", has no name in the format.");
  }
}

// In order of name. Without a tree: the end of one needs memory (JsonTree).
std::string header_of(std::span<const NamedTensor> tensors) {
  std::map<std::string_view, std::string> entries;
  int64_t begin = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t end = begin + tensor.bytes();
    entries[name] =
        cat(nlohmann::json(name).dump(), ":{\"data_offsets\":[", begin, ",", end, "],\"dtype\":\"",
            file_dtype(tensor.dtype), "\",\"shape\":[", joined(extents(tensor.shape), ","), "]}");
    begin = end;
  }
  std::string text = "{";
  for (const auto& [name, entry] : entries) text += cat(text.size() == 1 ? "" : ",", entry);
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begins 8-byte aligned
  SWITCHYARD_REQUIRE(text.size() <= kMaxHeaderBytes, BadFile,
                     "write_safetensors: header bytes=", text.size(), ", the format has at most ",
                     kMaxHeaderBytes, ". Write several files.");
  return text;
}

// ---- where

[[noreturn]] void refuse(const fs::path& path, const std::string& why) {
  throw Error(Errc::BadFile, cat("write_safetensors: path=", path.string(), ", ", why));
}
[[noreturn]] void refuse_by_errno(const fs::path& path, const char* what) {
  refuse(path, cat(what, " (", errno_text(), ")."));
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// The mode of the file that is replaced, if there is one.
std::optional<mode_t> check_target(const fs::path& path) {
  struct stat info {};
  std::error_code ignored;
  const fs::path folder = folder_of(path);
  if (!fs::is_directory(folder, ignored)) refuse(path, "its folder does not exist. Make it first.");
  const bool exists = ::lstat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) refuse_by_errno(path, "cannot be looked at");
  if (exists && S_ISLNK(info.st_mode))
    refuse(path, cat("is a link to ", fs::read_symlink(path, ignored).string(),
                     ". Name the file itself, or remove the link."));
  if (exists && !S_ISREG(info.st_mode))
    refuse(path, "is no regular file, and is not replaced. Name another path.");
  if (exists && ::access(path.c_str(), W_OK) != 0) refuse_by_errno(path, "cannot be written");
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    refuse_by_errno(path, "its folder cannot be written");
  if (!exists) return {};
  return info.st_mode & 07777;
}

// While it lives, a write beyond the limit on file size (ulimit -f) fails with EFBIG; by default its
// signal would end the process.
class FileSizeSignalIsBlocked {
 public:
  FileSizeSignalIsBlocked() {
    ::sigemptyset(&signal_);
    ::sigaddset(&signal_, SIGXFSZ);
    ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  ~FileSizeSignalIsBlocked() {
    if (::sigismember(&before_, SIGXFSZ)) return;
    const timespec now{};
    while (::sigtimedwait(&signal_, nullptr, &now) == SIGXFSZ) continue;
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  FileSizeSignalIsBlocked(const FileSizeSignalIsBlocked&) = delete;
  FileSizeSignalIsBlocked& operator=(const FileSizeSignalIsBlocked&) = delete;

 private:
  sigset_t signal_, before_;
};

constexpr std::string_view kDraftEnding = ".draft";

// Whether it is a draft of `file`: <file>.<digits>.draft.
bool is_draft_name(std::string_view name, std::string_view file) {
  if (!name.starts_with(file) || !name.ends_with(kDraftEnding)) return false;
  if (name.size() < file.size() + kDraftEnding.size() + 2 || name[file.size()] != '.') return false;
  name.remove_prefix(file.size() + 1);
  name.remove_suffix(kDraftEnding.size());
  return name.find_first_not_of("0123456789") == std::string_view::npos;
}

// Whether nobody writes it any more: who does holds its lock until the process ends.
bool is_abandoned(const fs::path& draft) {
  const FileDescriptor fd(::open(draft.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  return fd.open() && ::fstat(fd.fd(), &info) == 0 && S_ISREG(info.st_mode) &&
         info.st_uid == ::geteuid() && ::flock(fd.fd(), LOCK_EX | LOCK_NB) == 0;
}

// What killed processes left of earlier drafts of this target.
void remove_abandoned_drafts(const fs::path& target) {
  const std::string file = target.filename().string();
  for (const std::string& name : names_in(folder_of(target)))
    if (is_draft_name(name, file))
      if (const fs::path draft = folder_of(target) / name; is_abandoned(draft))
        ::unlink(draft.c_str());
}

// What becomes the target when it is published, and disappears otherwise. It has no name before
// where the file system knows such files: then a killed process leaves nothing behind, unless it was
// about to replace a file. What one leaves, the next draft of the target removes.
class Draft {
 public:
  explicit Draft(const fs::path& target) : target_(target), replaced_mode_(check_target(target)) {
    constexpr const char* kOwnFiles = "/proc/self/fd";  // what gives a file without a name one
    remove_abandoned_drafts(target);
    if (::access(kOwnFiles, X_OK) == 0) fd_ = opened(folder_of(target), O_TMPFILE);
    link_from_ = cat(kOwnFiles, "/", fd_.fd());
    if (fd_.open()) ::flock(fd_.fd(), LOCK_EX);
    while (!fd_.open()) {
      std::string name = name_beside();
      fd_ = opened(name, O_CREAT | O_EXCL);
      if (!fd_.open() && errno != EEXIST) refuse_by_errno(target, "cannot be created");
      if (fd_.open() && !is_locked())
        fd_ = {};  // another one took it for abandoned before it was locked
      else if (fd_.open())
        name_ = std::move(name);
    }
  }
  ~Draft() {
    if (!name_.empty()) ::unlink(name_.c_str());
  }

  void write(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_.fd(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) refuse_by_errno(target_, "cannot be written");
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  void publish() {
    const bool has_mode = !replaced_mode_ || ::fchmod(fd_.fd(), *replaced_mode_) == 0;
    if (!has_mode || ::fsync(fd_.fd()) != 0) refuse_by_errno(target_, "cannot be written");
    if (name_.empty() && is_linked_as(target_)) return;  // it replaces nothing
    if (name_.empty()) give_name();
    if (::rename(name_.c_str(), target_.c_str()) != 0)
      refuse_by_errno(target_, "cannot be written");
    name_.clear();
  }

 private:
  // A new file's mode is what the process's umask leaves.
  FileDescriptor opened(const fs::path& path, int how) const {
    const mode_t mode = replaced_mode_ ? 0600 : 0666;
    return FileDescriptor(::open(path.c_str(), how | O_WRONLY | O_CLOEXEC, mode));
  }
  std::string name_beside() const {
    std::random_device random;
    return cat(target_.string(), ".", random(), kDraftEnding);
  }
  // Without locks, as on some network file systems, nothing is taken for abandoned either.
  bool is_locked() const {
    struct stat info {};
    const bool taken = ::flock(fd_.fd(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    const bool has_links = ::fstat(fd_.fd(), &info) == 0 && info.st_nlink > 0;
    return !taken && has_links;
  }
  void give_name() {
    std::string name;
    do name = name_beside();
    while (!is_linked_as(name));
    name_ = name;
  }
  // Gives a draft without a name this one, unless something has it.
  bool is_linked_as(const fs::path& name) const {
    if (::linkat(AT_FDCWD, link_from_.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0)
      return true;
    if (errno != EEXIST) refuse_by_errno(target_, "cannot be created");
    return false;
  }

  fs::path target_;
  std::optional<mode_t> replaced_mode_;
  FileDescriptor fd_;
  std::string link_from_, name_;
};

void write_file(const fs::path& path, std::span<const NamedTensor> tensors) {
  check_tensors(tensors);
  const std::string header = header_of(tensors);
  const uint64_t header_bytes = header.size();
  const FileSizeSignalIsBlocked guard;
  Draft file(path);
  file.write(std::as_bytes(std::span(&header_bytes, 1)));
  file.write(std::as_bytes(std::span(header)));
  for (const auto& t : tensors)
    file.write(
        {static_cast<const std::byte*>(t.tensor.data), static_cast<size_t>(t.tensor.bytes())});
  file.publish();
}

}  // namespace

void check_safetensors_target(const fs::path& path) {
  (void)check_target(path);
}

void write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors) {
  as_errors("write_safetensors", [&] { write_file(path, tensors); });
}

}  // namespace switchyard
