// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/instruction_sets.h -- runs a suite with every instruction set of this build and
// machine, not with the best alone.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "cpu/instruction_set.h"

namespace switchyard::testing {

class EveryInstructionSet : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { cpu::pin_instruction_set(GetParam()); }
  void TearDown() override { cpu::unpin_instruction_set(); }
};

}  // namespace switchyard::testing

// `suite` derives from EveryInstructionSet; its tests are TEST_P.
#define SWITCHYARD_FOR_EVERY_INSTRUCTION_SET(suite)                                             \
  INSTANTIATE_TEST_SUITE_P(, suite, ::testing::ValuesIn(::switchyard::cpu::instruction_sets()), \
                           [](const auto& set) { return set.param; })
