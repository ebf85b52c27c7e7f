// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/names_in.cc
#include "base/names_in.h"

#include <dirent.h>

#include <algorithm>
#include <memory>
#include <string_view>

namespace switchyard {

// Not by std::filesystem::directory_iterator, which ends the process where an allocation inside it fails (GCC 12).
std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), ::closedir);
  while (const dirent* entry = open ? ::readdir(open.get()) : nullptr)
    if (const std::string_view name = entry->d_name; name != "." && name != "..")
      names.emplace_back(name);
  std::ranges::sort(names);
  return names;
}

}  // namespace switchyard
