// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/draft_test.cc -- what lies in the folder before, while and after a file is written, where
// files without names exist and where they do not.
#include "base/draft.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "base/names_in.h"
#include "switchyard/error.h"
#include "testing/error_of.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

unsigned mode_of(const fs::path& path) {
  return static_cast<unsigned>(fs::status(path).permissions());
}

// In a process of its own, whose folder, mask and root are its own. It ends with the number of the
// first expectation that does not hold, 0 for none.
class Child {
 public:
  void expect(bool holds) {
    ++count_;
    if (!holds && first_failed_ == 0) first_failed_ = count_;
  }
  static int run(const std::function<void(Child&)>& body) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      Child child;
      try {
        body(child);
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        ::_exit(99);
      }
      ::_exit(child.first_failed_);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
  }

 private:
  int count_ = 0, first_failed_ = 0;
};

TEST(NamesIn, AreSortedAndWithoutTheFolderItselfAndItsParent) {
  const testing::TemporaryFolder folder;
  EXPECT_EQ(names_in(folder.path()), Names{});
  for (const char* name : {"b", ".hidden", "a", "..."}) testing::write_file(folder / name, "");
  EXPECT_EQ(names_in(folder.path()), (Names{"...", ".hidden", "a", "b"}));
  EXPECT_EQ(names_in(folder / "none"), Names{});
}

TEST(Draft, IsSeenWhenItIsPublishedAndNotBefore) {
  const testing::TemporaryFolder folder;
  Draft draft("write", folder / "file");
  draft.write(bytes_of("one "));
  draft.write({});
  draft.write(bytes_of("two"));
  EXPECT_FALSE(fs::exists(folder / "file"));
  draft.publish();
  EXPECT_EQ(testing::read_file(folder / "file"), "one two");
  EXPECT_EQ(names_in(folder.path()), Names{"file"});
}

TEST(Draft, DisappearsUnlessItIsPublished) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "file", "old");
  {
    Draft draft("write", folder / "file");
    draft.write(bytes_of("new"));
  }
  EXPECT_EQ(testing::read_file(folder / "file"), "old");
  EXPECT_EQ(names_in(folder.path()), Names{"file"});
}

TEST(Draft, ReplacesWhatCameAfterItBegan) {
  const testing::TemporaryFolder folder;
  Draft draft("write", folder / "file");
  draft.write(bytes_of("mine"));
  testing::write_file(folder / "file", "another's, and longer");
  draft.publish();
  EXPECT_EQ(testing::read_file(folder / "file"), "mine");
  EXPECT_EQ(names_in(folder.path()), Names{"file"});
}

TEST(Draft, HasTheModeOfWhatItReplacesElseWhatTheMaskLeaves) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "old", "old");
  ASSERT_EQ(::chmod((folder / "old").c_str(), 0604), 0);
  EXPECT_EQ(check_target("write", folder / "old"), std::optional<mode_t>(0604));
  EXPECT_EQ(check_target("write", folder / "new"), std::nullopt);
  EXPECT_EQ(Child::run([&](Child&) {
              ::umask(027);
              for (const char* name : {"old", "new"}) Draft("write", folder / name).publish();
            }),
            0);
  EXPECT_EQ(mode_of(folder / "old"), 0604U);
  EXPECT_EQ(mode_of(folder / "new"), 0640U);
}

TEST(Draft, OfANameAloneLiesInTheWorkingFolder) {
  const testing::TemporaryFolder folder;
  EXPECT_EQ(Child::run([&](Child& child) {
              child.expect(::chdir(folder.path().c_str()) == 0);
              Draft draft("write", "file");
              draft.write(bytes_of("here"));
              draft.publish();
            }),
            0);
  EXPECT_EQ(testing::read_file(folder / "file"), "here");
}

TEST(Draft, SaysWhatItCannotReplace) {
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "file", "old");
  const auto message = [&](const fs::path& path) {
    const Error e = testing::error_of([&] { Draft("write", path).publish(); });
    EXPECT_EQ(e.code(), Errc::BadFile);
    return std::string(e.what());
  };
  EXPECT_NE(message(folder / "file" / "x").find("its folder does not exist"), std::string::npos);
  EXPECT_NE(
      message(folder / std::string(300, 'x')).find("cannot be looked at (File name too long)"),
      std::string::npos);
  fs::create_symlink("file", folder / "link");
  EXPECT_NE(message(folder / "link").find("is a link to file. Name the file itself"),
            std::string::npos);
  EXPECT_EQ(names_in(folder.path()), (Names{"file", "link"}));
}

// As on file systems without files that have no name: a root without /proc.
TEST(Draft, WithANameIsLockedBesideItsTargetAndLeavesNoOther) {
  const testing::TemporaryFolder folder;
  constexpr int kMayNot = 98;
  testing::write_file(folder / "old", "old");
  testing::write_file(folder / "old.7.draft", "left by a process that was killed");
  ASSERT_EQ(::chmod((folder / "old").c_str(), 0640), 0);
  const int failed = Child::run([&](Child& child) {
    if (::chroot(folder.path().c_str()) != 0) ::_exit(kMayNot);
    child.expect(::chdir("/") == 0);
    std::string name;
    {
      Draft draft("write", "/old");
      draft.write(bytes_of("new"));
      const Names names = names_in("/");
      child.expect(names.size() == 2 && names[0] == "old");
      name = "/" + names.back();
      child.expect(name.starts_with("/old.") && name.ends_with(".draft"));
      child.expect(mode_of(name) == 0600);
      const FileDescriptor other(::open(name.c_str(), O_RDONLY));
      child.expect(::flock(other.fd(), LOCK_EX | LOCK_NB) != 0);
      const Draft beside("write", "/old");  // takes no draft that is being written for abandoned
      child.expect(names_in("/").size() == 3);
      draft.publish();
      child.expect(!fs::exists(name));
      testing::write_file(name, "another's");  // which the end of the first one leaves
    }
    child.expect(names_in("/") == Names({"old", name.substr(1)}));
    {
      Draft draft("write", "/new");
      draft.write(bytes_of("new"));
      child.expect(names_in("/").size() == 3);
    }
    child.expect(names_in("/").size() == 2);
  });
  if (failed == kMayNot) GTEST_SKIP() << "this user may not set another root";
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(testing::read_file(folder / "old"), "new");
  EXPECT_EQ(mode_of(folder / "old"), 0640U);
}

TEST(FileSizeSignal, IsAfterwardsAsItWas) {
  const auto blocked = [] {
    sigset_t now;
    ::pthread_sigmask(SIG_BLOCK, nullptr, &now);
    return ::sigismember(&now, SIGXFSZ) == 1;
  };
  const auto pending = [] {
    sigset_t now;
    ::sigpending(&now);
    return ::sigismember(&now, SIGXFSZ) == 1;
  };
  const int failed = Child::run([&](Child& child) {
    for (int i = 0; i < 2; ++i) {
      child.expect(!blocked());
      const FileSizeSignalIsBlocked guard;
      child.expect(blocked());
      ::raise(SIGXFSZ);  // would end the process
    }
    child.expect(!blocked() && !pending());
    sigset_t signal;
    ::sigemptyset(&signal);
    ::sigaddset(&signal, SIGXFSZ);
    ::pthread_sigmask(SIG_BLOCK, &signal, nullptr);
    ::raise(SIGXFSZ);
    { const FileSizeSignalIsBlocked guard; }
    child.expect(blocked() && pending());  // the host's own
  });
  EXPECT_EQ(failed, 0);
}

}  // namespace
}  // namespace switchyard
