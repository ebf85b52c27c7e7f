// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/instruction_set.cc
#include "cpu/instruction_set.h"

#include "cpu/simd_targets.h"

#include <hwy/targets.h>

#include "base/require.h"

namespace switchyard::cpu {
namespace {

// First called with nothing pinned, since pinning asks for it.
int64_t available_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

void choose(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

int64_t lowest_bit(int64_t bits) {
  return bits & -bits;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  // A better target is a lower bit.
  for (int64_t left = available_targets(); left != 0; left &= left - 1)
    names.push_back(hwy::TargetName(lowest_bit(left)));
  return names;
}

std::string instruction_set() {
  return hwy::TargetName(lowest_bit(hwy::SupportedTargets() & HWY_TARGETS));
}

void pin_instruction_set(const std::string& name) {
  for (int64_t left = available_targets(); left != 0; left &= left - 1)
    if (name == hwy::TargetName(lowest_bit(left))) return choose(lowest_bit(left));
  throw Error(Errc::Unsupported, cat("instruction set: name=", name, ", this machine runs ",
                                     joined(instruction_sets()), ". Pin one of those."));
}

void unpin_instruction_set() {
  available_targets();
  choose(0);
}

}  // namespace switchyard::cpu
