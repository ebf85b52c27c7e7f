// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/base/file.cc
#include "switchyard/file.h"

#include "base/as_error.h"
#include "base/draft.h"

namespace switchyard {
namespace {

constexpr const char* kOperation = "write_file";

}  // namespace

void check_file_target(const std::filesystem::path& path) {
  check_target(kOperation, path);
}

void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  as_errors(kOperation, [&] {
    Draft draft(kOperation, path);
    draft.write(bytes);
    draft.publish();
  });
}

}  // namespace switchyard
