// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/fuzz/parsers.h -- what parses files that users bring, with what must hold of the result.
//
// Each returns whether the input was read; false: it was refused, with an Error that blames the
// file on one line. Anything else ends the process.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>

namespace switchyard::fuzz {

// Runs `parse`, whose only way out is an Error that says the file is bad.
bool read_or_refused(const std::function<void()>& parse);

// A safetensors file: its tensors lie inside it and do not overlap.
bool read_header(std::span<const std::byte> file);
// model.safetensors.index.json: it names files of the checkpoint's own folder.
bool read_index(std::string_view text);
// config.json or layer.json: it describes layers that could be run.
bool read_config(std::string_view text);
bool read_layer(std::string_view text);

}  // namespace switchyard::fuzz
