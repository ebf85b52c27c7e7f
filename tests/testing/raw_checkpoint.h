// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/raw_checkpoint.h -- checkpoints of tensors that are bytes under a dtype's name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing/temporary_folder.h"

namespace switchyard::testing {

struct Raw {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};
using RawTensors = std::map<std::string, Raw>;

// config.json and model.safetensors.
inline void write_raw_checkpoint(const std::filesystem::path& folder, const nlohmann::json& config,
                                 const RawTensors& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, raw] : tensors) {
    header[name] = {{"dtype", raw.dtype},
                    {"shape", raw.shape},
                    {"data_offsets", {data.size(), data.size() + raw.bytes.size()}}};
    data.append(raw.bytes.begin(), raw.bytes.end());
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  write_file(folder / "config.json", config.dump());
  write_file(folder / "model.safetensors",
             std::string(reinterpret_cast<const char*>(&size), 8) + text + data);
}

}  // namespace switchyard::testing
