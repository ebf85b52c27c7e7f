// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/file_test.cc -- any bytes as a file; what is left of failures is told by the tests of
// safetensors, which are written the same way.
#include "switchyard/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace switchyard {
namespace {

namespace fs = std::filesystem;

class WriteFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "switchyard_file_XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void write(const fs::path& path, std::string_view text) {
    write_file(path, std::as_bytes(std::span(text)));
  }
  static std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static std::string error_of(const fs::path& path) {
    try {
      check_file_target(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Errc::BadFile);
      EXPECT_THROW(write(path, "new"), Error);
      return e.what();
    }
    return "";
  }
  auto num_files() const { return std::distance(fs::directory_iterator(folder_), {}); }

  fs::path folder_;
};

TEST_F(WriteFile, HoldsTheBytesAndReplacesAFileWithItsMode) {
  const fs::path path = folder_ / "page.html";
  write(path, std::string_view("a\0b", 3));
  EXPECT_EQ(read(path), std::string("a\0b", 3));
  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  write(path, "");
  EXPECT_EQ(read(path), "");
  EXPECT_EQ(static_cast<unsigned>(fs::status(path).permissions()), 0640U);
  EXPECT_EQ(num_files(), 1);
}

TEST_F(WriteFile, RefusesWhatIsNoFileByNameAndCreatesNothing) {
  write(folder_ / "old", "old");
  fs::create_symlink(folder_ / "old", folder_ / "link");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_of(folder_ / "none" / "x"),
            "write_file: path=" + (folder_ / "none" / "x").string() +
                ", its folder does not exist. Make it first.");
  EXPECT_NE(error_of(folder_ / "link").find("is a link to"), std::string::npos);
  EXPECT_NE(error_of(folder_ / "pipe").find("is no regular file"), std::string::npos);
  EXPECT_NE(error_of(folder_).find("is no regular file"), std::string::npos);
  EXPECT_EQ(error_of(folder_ / "new"), "");
  EXPECT_EQ(num_files(), 3);
  EXPECT_EQ(read(folder_ / "old"), "old");
}

}  // namespace
}  // namespace switchyard
