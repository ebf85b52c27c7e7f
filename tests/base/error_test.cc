// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/error_test.cc -- a message is one line, whatever went into it.
#include "switchyard/error.h"

#include <gtest/gtest.h>

#include <locale>
#include <string>
#include <string_view>

#include "base/require.h"
#include "switchyard/strategy.h"

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

// A host program may set any locale for all its threads.
TEST(Messages, AreTheSameInEveryLocale) {
  struct Grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
    std::string do_truename() const override { return "wahr"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale(), new Grouped));
  const std::string text = cat("/proc/", 1234567, " ", int64_t{-4096}, " ", SIZE_MAX, " ", 1.5f,
                               " ", 1e20, " ", 1234567.0, " ", true, 'c', std::string("s"));
  StrategyRequest request;
  request.config = {.hidden = 4096, .intermediate = 2048, .num_experts = 64, .top_k = 2};
  request.workspace_limit_bytes = 1 << 20;
  std::string refused;
  try {
    choose_strategy(request);
  } catch (const Error& e) {
    refused = e.what();
  }
  std::locale::global(before);
  EXPECT_EQ(text, "/proc/1234567 -4096 18446744073709551615 1.5 1e+20 1.23457e+06 1cs");
  EXPECT_NE(refused.find(", limit 1048576)"), std::string::npos) << refused;
  EXPECT_EQ(refused.find(','), refused.find(", no strategy")) << refused;
}

}  // namespace
}  // namespace switchyard
