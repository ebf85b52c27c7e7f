// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/report/write.h -- the page of a run that has just ended, for `switchyard bench --report`.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace switchyard::cli {

// Before a long run. Throws Error(BadFile) where write_report would because of what `path` is.
void check_report_target(const std::string& path);

// Of the object that --json prints: whole or not at all.
void write_report(const std::string& path, const nlohmann::json& run);

}  // namespace switchyard::cli
