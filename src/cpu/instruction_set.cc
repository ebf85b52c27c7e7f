// src/cpu/instruction_set.cc
#include "cpu/instruction_set.h"

#include "cpu/simd_targets.h"

#include <hwy/targets.h>

#include <atomic>

#include "base/require.h"

namespace switchyard::cpu {
namespace {

// Highway of before 1.0.5 has no target with it, so it is a choice of its own beside AVX3.
constexpr const char* kBf16Dot = "AVX3_BF16";

// First called with nothing pinned, since pinning asks for it.
int64_t available_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

bool has_bf16_dot() {
#if HWY_ARCH_X86
  return (available_targets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

std::atomic<bool> bf16_dot_allowed = true;

void choose(int64_t targets, bool allow_bf16_dot) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  bf16_dot_allowed = allow_bf16_dot;
}

int64_t lowest_bit(int64_t bits) {
  return bits & -bits;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  if (has_bf16_dot()) names.push_back(kBf16Dot);
  // A better target is a lower bit.
  for (int64_t left = available_targets(); left != 0; left &= left - 1)
    names.push_back(hwy::TargetName(lowest_bit(left)));
  return names;
}

std::string instruction_set() {
  if (uses_bf16_dot()) return kBf16Dot;
  return hwy::TargetName(lowest_bit(hwy::SupportedTargets() & HWY_TARGETS));
}

void pin_instruction_set(const std::string& name) {
  if (has_bf16_dot() && name == kBf16Dot) return choose(HWY_AVX3, true);
  for (int64_t left = available_targets(); left != 0; left &= left - 1)
    if (name == hwy::TargetName(lowest_bit(left))) return choose(lowest_bit(left), false);
  std::string known;
  for (const auto& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
  throw Error(Errc::Unsupported, cat("instruction set: name=", name, ", this machine runs ", known,
                                     ". Pin one of those."));
}

void unpin_instruction_set() {
  available_targets();
  choose(0, true);
}

bool uses_bf16_dot() {
  return bf16_dot_allowed && has_bf16_dot();
}

}  // namespace switchyard::cpu
