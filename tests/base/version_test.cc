// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/base/version_test.cc -- one version everywhere, and the rule by which a library serves a header.
#include "switchyard/version.h"

#include <gtest/gtest.h>

#include <string>

#include "base/version_rule.h"

namespace switchyard {
namespace {

TEST(Version, IsThatOfTheHeader) {
  const int parts[] = {SWITCHYARD_VERSION_MAJOR, SWITCHYARD_VERSION_MINOR,
                       SWITCHYARD_VERSION_PATCH};
  EXPECT_STREQ(version(), SWITCHYARD_VERSION);
  EXPECT_EQ(version(), std::to_string(parts[0]) + "." + std::to_string(parts[1]) + "." +
                           std::to_string(parts[2]));
  EXPECT_EQ(version_number(), SWITCHYARD_VERSION_NUMBER);
  EXPECT_EQ(version_number(), parts[0] * 10000 + parts[1] * 100 + parts[2]);
}

TEST(Version, AHeaderOfAnotherReleaseIsSeen) {
  EXPECT_TRUE(serves());
  EXPECT_FALSE(serves(SWITCHYARD_VERSION_NUMBER + 100));
  EXPECT_FALSE(serves(SWITCHYARD_VERSION_NUMBER + 10000));
}

TEST(Version, BeforeOneTheMinorVersionIsEqual) {
  EXPECT_TRUE(library_serves(100, 103));
  EXPECT_TRUE(library_serves(103, 100));
  EXPECT_FALSE(library_serves(200, 100));
  EXPECT_FALSE(library_serves(100, 200));
  EXPECT_FALSE(library_serves(10000, 9900));
  EXPECT_FALSE(library_serves(9900, 10000));
}

TEST(Version, FromOneOnTheLibraryIsNotOlder) {
  EXPECT_TRUE(library_serves(10200, 10200));
  EXPECT_TRUE(library_serves(10200, 10105));
  EXPECT_TRUE(library_serves(10200, 10203));
  EXPECT_FALSE(library_serves(10200, 10300));
  EXPECT_FALSE(library_serves(20000, 10300));
  EXPECT_FALSE(library_serves(10300, 20000));
}

}  // namespace
}  // namespace switchyard
