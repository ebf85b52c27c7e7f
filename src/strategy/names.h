// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/names.h -- what a strategy combines; every name that --strategy takes, and what it means here.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "switchyard/strategy.h"

namespace switchyard {

// THE lists of kinds, in the order in which they are shown.
inline constexpr std::array kDispatchers = {DispatcherKind::Local, DispatcherKind::Normal,
                                            DispatcherKind::AllGather, DispatcherKind::LowLatency};
inline constexpr std::array kExecutors = {ExecutorKind::Contiguous, ExecutorKind::Masked,
                                          ExecutorKind::Hybrid};
// In the order in which `auto` takes the first of equals.
inline constexpr std::array kCudaProviders = {GemmProvider::Hopper, GemmProvider::Cublas};

struct Combination {
  DispatcherKind dispatcher;
  ExecutorKind executor;
  GemmProvider provider = GemmProvider::Cpu;
};

// What a name asks for. Without a dispatcher: local for one rank, normal otherwise. Without a
// provider: the CPU's, or Hopper's on CUDA.
struct NamedChoice {
  std::optional<DispatcherKind> dispatcher;
  ExecutorKind executor = ExecutorKind::Contiguous;
  std::optional<GemmProvider> provider;
  std::optional<DType> experts;  // what the name says of them; no word: any
  std::string not_provided;      // why this release cannot run it; empty when it can
  std::string warning;           // the name is a deprecated alias
};

// Throws Error(Unsupported) with all names and the nearest one.
NamedChoice parse_strategy_name(std::string_view name);

// "normal+hybrid", "local+masked+cublas"; the other providers follow from the device.
std::string canonical_name(const Combination& c);

}  // namespace switchyard
