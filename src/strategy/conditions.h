// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/conditions.h -- every limit, once: the choice, creation and tests ask the same
// lists.
#pragma once

#include <string>
#include <vector>

#include "strategy/names.h"

namespace switchyard {

std::vector<Condition> layer_conditions(const StrategyRequest& request);
// What its routed experts are made of, and where such run.
std::vector<Condition> expert_conditions(const StrategyRequest& request);
// What `experts` are is what rows travel as.
std::vector<Condition> row_conditions(DispatcherKind kind, const StrategyRequest& request);
std::vector<Condition> dispatcher_conditions(DispatcherKind kind, const StrategyRequest& request);
std::vector<Condition> executor_conditions(ExecutorKind kind, const StrategyRequest& request);
// Empty for the CPU's own: conditions of GPUs apply with a GPU only.
std::vector<Condition> provider_conditions(GemmProvider provider, ExecutorKind executor,
                                           const StrategyRequest& request);

// That the configurations which the caller names can do the experts' GEMMs; empty where none is named.
std::vector<Condition> gemm_conditions(GemmProvider provider, const StrategyRequest& request);

// Of a strategy, at the request's capacity: its buffers have a size that can be had.
std::vector<Condition> capacity_conditions(const Combination& c, const StrategyRequest& request);

// Executor and dispatcher at the capacity of the request; -1 when the shape itself is invalid.
int64_t strategy_workspace_bytes(const Combination& c, const StrategyRequest& request);

// The texts of those that do not hold, with "; " between them.
std::string failures(const std::vector<Condition>& conditions);

// Throws Error(Unsupported) that lists the failed conditions with the values they saw.
void require_all(const char* operation, const std::vector<Condition>& conditions);

}  // namespace switchyard
