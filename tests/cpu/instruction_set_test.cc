// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/instruction_set_test.cc -- pinning an instruction set and taking it back.
#include "cpu/instruction_set.h"

#include <gtest/gtest.h>

#include <set>

#include "switchyard/error.h"

namespace switchyard::cpu {
namespace {

TEST(InstructionSet, TheBestRunsUnlessAnotherIsPinned) {
  const auto names = instruction_sets();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  EXPECT_EQ(instruction_set(), names.front());
  for (const auto& name : names) {
    pin_instruction_set(name);
    EXPECT_EQ(instruction_set(), name);
    EXPECT_EQ(instruction_sets(), names) << "what can be pinned does not depend on what is";
  }
  unpin_instruction_set();
  EXPECT_EQ(instruction_set(), names.front());
}

TEST(InstructionSet, AnUnknownOneIsRefusedAndNothingChanges) {
  try {
    pin_instruction_set("MMX");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Errc::Unsupported);
    EXPECT_NE(std::string(error.what()).find(instruction_sets().front()), std::string::npos);
  }
  EXPECT_EQ(instruction_set(), instruction_sets().front());
}

}  // namespace
}  // namespace switchyard::cpu
