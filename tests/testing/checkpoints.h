// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/checkpoints.h -- the checkpoints that tests run, with what they should give.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "switchyard/checkpoint.h"
#include "switchyard/safetensors.h"
#include "testing/buffer.h"

namespace switchyard::testing {

// data/tiny-code-moe and every folder of tests/data; SWITCHYARD_MODELS names a folder of further
// ones (whole checkpoints instead of slices, say).
inline std::vector<std::filesystem::path> checkpoint_folders() {
  const std::filesystem::path root = SWITCHYARD_SOURCE_DIR;
  std::vector<std::filesystem::path> folders{root / "data/tiny-code-moe"};
  std::vector<std::filesystem::path> parents{root / "tests/data"};
  if (const char* more = std::getenv("SWITCHYARD_MODELS")) parents.emplace_back(more);
  for (const auto& parent : parents)
    for (const auto& entry : std::filesystem::directory_iterator(parent))
      if (std::filesystem::exists(entry.path() / "moe_io.safetensors"))
        folders.push_back(entry.path());
  return folders;
}

// One MoE layer of one checkpoint with its oracle.
struct OracleCase {
  std::shared_ptr<const Checkpoint> checkpoint;
  std::shared_ptr<const TensorFile> io;
  int64_t layer = 0;
  std::string name;  // "olmoe, layer 0"

  // A copy: what a file maps need not stand at a multiple of 16.
  Buffer<Bf16> input() const {
    const ConstTensor mapped = io->tensor(checkpoint->module_path(layer) + ".input");
    Buffer<Bf16> copy(mapped.shape);
    std::copy_n(mapped.as<Bf16>(), copy.count(), copy.data());
    return copy;
  }
  // Of a layer that chooses by them; absent for others. A view of the file.
  ConstTensor token_ids() const {
    if (checkpoint->config(layer).gate.vocabulary == 0) return {};
    return io->tensor(checkpoint->module_path(layer) + ".input_ids");
  }
  ConstTensor expected() const {
    return io->tensor(checkpoint->module_path(layer) + ".output_fp64");
  }
};

inline std::vector<OracleCase> oracle_cases() {
  std::vector<OracleCase> all;
  for (const auto& folder : checkpoint_folders()) {
    const std::shared_ptr<const Checkpoint> checkpoint = Checkpoint::open(folder);
    const auto io = TensorFile::open(folder / "moe_io.safetensors");
    for (const int64_t layer : checkpoint->moe_layers())
      all.push_back(
          {checkpoint, io, layer, folder.filename().string() + ", layer " + std::to_string(layer)});
  }
  return all;
}

// All of them, opened once in a program.
inline const std::vector<OracleCase>& shared_oracle_cases() {
  static const auto all = oracle_cases();
  return all;
}
// "olmoe__layer_0_0": what a test over shared_oracle_cases() calls its i-th.
inline std::string oracle_test_name(size_t i) {
  std::string name = shared_oracle_cases()[i].name;
  for (char& ch : name)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return name + "_" + std::to_string(i);
}

}  // namespace switchyard::testing
