// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/names_in.h
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace switchyard {

// What a folder holds, sorted; nothing where it cannot be read.
std::vector<std::string> names_in(const std::filesystem::path& folder);

}  // namespace switchyard
