// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/commands.h -- the subcommands. Each registers its options; the returned function runs it and
// gives the exit code. Errors leave as exceptions; main.cc turns them into one line and a code.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "console.h"

namespace switchyard::cli {

inline constexpr int kGood = 0, kFailed = 1, kBadInput = 2;

// Wrong usage that CLI11 cannot see: exit 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Values>
void require_usage(bool good, fmt::format_string<Values...> text, Values&&... values) {
  if (!good) throw UsageError(fmt::format(text, std::forward<Values>(values)...));
}

// What the user gave is wrong: 2. What was asked for went wrong: 1.
int exit_code(const std::exception& e);

// An option with a value; `type` is what its help calls the value.
template <class T>
CLI::Option* add_value(CLI::App& app, const char* names, T& value, const char* type,
                       const char* help) {
  return app.add_option(names, value, help)->type_name(type);
}

using Command = std::function<int()>;
Command add_run(CLI::App& app);
Command add_models(CLI::App& app);
Command add_explain(CLI::App& app);
Command add_check(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_plan(CLI::App& app);
Command add_report(CLI::App& app);

}  // namespace switchyard::cli
