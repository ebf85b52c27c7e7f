// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/draft.cc
#include "base/draft.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <random>
#include <string_view>

#include "base/names_in.h"
#include "base/require.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const char* operation, const fs::path& path, const std::string& why) {
  throw Error(Errc::BadFile, cat(operation, ": path=", path.string(), ", ", why));
}
[[noreturn]] void refuse_by_errno(const char* operation, const fs::path& path, const char* what) {
  refuse(operation, path, cat(what, " (", errno_text(), ")."));
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

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

}  // namespace

std::optional<mode_t> check_target(const char* operation, const fs::path& path) {
  struct stat info {};
  std::error_code ignored;
  const fs::path folder = folder_of(path);
  if (!fs::is_directory(folder, ignored))
    refuse(operation, path, "its folder does not exist. Make it first.");
  const bool exists = ::lstat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) refuse_by_errno(operation, path, "cannot be looked at");
  if (exists && S_ISLNK(info.st_mode))
    refuse(operation, path,
           cat("is a link to ", fs::read_symlink(path, ignored).string(),
               ". Name the file itself, or remove the link."));
  if (exists && !S_ISREG(info.st_mode))
    refuse(operation, path, "is no regular file, and is not replaced. Name another path.");
  if (exists && ::access(path.c_str(), W_OK) != 0)
    refuse_by_errno(operation, path, "cannot be written");
  if (::access(folder.c_str(), W_OK | X_OK) != 0)
    refuse_by_errno(operation, path, "its folder cannot be written");
  if (!exists) return {};
  return info.st_mode & 07777;
}

FileSizeSignalIsBlocked::FileSizeSignalIsBlocked() {
  ::sigemptyset(&signal_);
  ::sigaddset(&signal_, SIGXFSZ);
  ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
}

FileSizeSignalIsBlocked::~FileSizeSignalIsBlocked() {
  if (::sigismember(&before_, SIGXFSZ)) return;
  const timespec now{};
  while (::sigtimedwait(&signal_, nullptr, &now) == SIGXFSZ) continue;
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Draft::Draft(const char* operation, const fs::path& target)
    : operation_(operation), target_(target), replaced_mode_(check_target(operation, target)) {
  constexpr const char* kOwnFiles = "/proc/self/fd";  // what gives a file without a name one
  remove_abandoned_drafts(target);
  if (::access(kOwnFiles, X_OK) == 0) fd_ = opened(folder_of(target), O_TMPFILE);
  link_from_ = cat(kOwnFiles, "/", fd_.fd());
  if (fd_.open()) ::flock(fd_.fd(), LOCK_EX);
  while (!fd_.open()) {
    std::string name = name_beside();
    fd_ = opened(name, O_CREAT | O_EXCL);
    if (!fd_.open() && errno != EEXIST) refuse_by_errno("cannot be created");
    if (fd_.open() && !is_locked())
      fd_ = {};  // another one took it for abandoned before it was locked
    else if (fd_.open())
      name_ = std::move(name);
  }
}

Draft::~Draft() {
  if (!name_.empty()) ::unlink(name_.c_str());
}

void Draft::write(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_.fd(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) refuse_by_errno("cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void Draft::publish() {
  const bool has_mode = !replaced_mode_ || ::fchmod(fd_.fd(), *replaced_mode_) == 0;
  if (!has_mode || ::fsync(fd_.fd()) != 0) refuse_by_errno("cannot be written");
  if (name_.empty() && is_linked_as(target_)) return;  // it replaces nothing
  if (name_.empty()) give_name();
  if (::rename(name_.c_str(), target_.c_str()) != 0) refuse_by_errno("cannot be written");
  name_.clear();
}

// A new file's mode is what the process's umask leaves.
FileDescriptor Draft::opened(const fs::path& path, int how) const {
  const mode_t mode = replaced_mode_ ? 0600 : 0666;
  return FileDescriptor(::open(path.c_str(), how | O_WRONLY | O_CLOEXEC, mode));
}

std::string Draft::name_beside() const {
  std::random_device random;
  return cat(target_.string(), ".", random(), kDraftEnding);
}

// Without locks, as on some network file systems, nothing is taken for abandoned either.
bool Draft::is_locked() const {
  struct stat info {};
  const bool taken = ::flock(fd_.fd(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  const bool has_links = ::fstat(fd_.fd(), &info) == 0 && info.st_nlink > 0;
  return !taken && has_links;
}

void Draft::give_name() {
  std::string name;
  do name = name_beside();
  while (!is_linked_as(name));
  name_ = name;
}

// Gives a draft without a name this one, unless something has it.
bool Draft::is_linked_as(const fs::path& name) const {
  if (::linkat(AT_FDCWD, link_from_.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0)
    return true;
  if (errno != EEXIST) refuse_by_errno("cannot be created");
  return false;
}

void Draft::refuse_by_errno(const char* what) const {
  switchyard::refuse_by_errno(operation_, target_, what);
}

}  // namespace switchyard
