// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/file.h -- public: files that are there whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "switchyard/error.h"

namespace [[gnu::visibility("default")]] switchyard {

/// Any bytes, in the way of write_safetensors: a reader sees the old file or the whole new one, and
/// on an error or the end of the process nothing is left behind. The mode of a file that is replaced
/// stays. Throws Error(BadFile) where `path` cannot be written, or is anything but a regular file.
void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes);

/// Throws Error(BadFile) where write_file would because of what `path` is, so that a long run need
/// not end in it. Creates nothing.
void check_file_target(const std::filesystem::path& path);

}  // namespace switchyard
