// tests/base/error_test.cc -- a message is one line, whatever went into it.
#include "switchyard/error.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace switchyard {
namespace {

TEST(Error, AMessageIsOneLineWithoutControlCharacters) {
  const std::string_view name("a\nb\r\tc\0d\x1b[31m\x7f\xc3\xa9", 16);
  EXPECT_STREQ(Error(Errc::BadFile, std::string(name)).what(), "a?b??c?d?[31m?\xc3\xa9");
}

TEST(Error, AMessageEndsAfter2000Bytes) {
  const std::string longest(2000, 'x');
  EXPECT_EQ(Error(Errc::BadFile, longest).what(), longest);
  EXPECT_EQ(Error(Errc::BadFile, longest + "x").what(), longest.substr(3) + "...");
}

}  // namespace
}  // namespace switchyard
