// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/layer_options.h -- options that several subcommands share: which layer, and how it runs.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "options.h"
#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"

namespace switchyard::cli {

// Which layer: a checkpoint's, or a preset's shape with random weights.
class LayerSource {
 public:
  enum class Shares { Yes, No };  // --weights, --ep-size and --ep-rank
  void add_options(CLI::App& command, Shares shares = Shares::Yes);

  // Opens the checkpoint or finds the preset. Throws Error or UsageError.
  void open();
  bool given() const { return !model_.empty() || !preset_.empty(); }

  const MoeConfig& config() const { return config_; }
  std::string name() const;
  // "model.layers.1.mlp"; empty for a preset.
  std::string module_path() const;
  // As the checkpoint holds the experts: "bf16", "mxfp4", ...; "random" for a preset.
  std::string stored_format() const;
  // What its experts are in memory: bf16, unless --weights native keeps them f8_e4m3.
  const ExpertFormat& expert_format() const { return format_; }
  bool has_random_weights() const { return !checkpoint_; }
  LayerWeights weights(int num_ranks, int rank, const Progress& progress) const;
  // Throws UsageError where `output`, which `option` names, is a file of the model or describes the
  // layer.
  void refuse_as_output(const std::string& output, const char* option = "--output") const;
  // Throws Unsupported with the bytes if weights and workspaces of the num_here ranks on this
  // machine, of num_ranks in all, exceed its memory, or that of `device` where they run. Weights
  // pass through the host in any case.
  void check_memory(int num_ranks, int num_here, size_t workspace_bytes,
                    DeviceKind device = DeviceKind::Cpu) const;

 private:
  void open_preset();
  void check_memory_of(const DeviceDescription& device, double weights, double workspaces) const;

  std::string model_, layer_json_, preset_, forms_ = "bf16";
  int64_t layer_ = -1;
  int64_t ep_size_ = 1, ep_rank_ = 0;
  uint64_t weight_seed_ = 0;
  std::shared_ptr<const Checkpoint> checkpoint_;
  MoeConfig config_;
  ExpertFormat format_;
};

inline constexpr const char* kNoPeerMemoryHelp =
    "CUDA: rows travel between ranks over NCCL, as between hosts, and not through peer memory";

// Throws UsageError where both are the same file; `what` names the other one.
void refuse_same_file(const std::string& output, const std::string& other, const char* what,
                      const char* option = "--output");

// How it runs.
struct RunOptions {
  int ranks = 1;
  std::string device = "cpu";
  LayerOptions layer;  // all but its capacity and device

  // `most_ranks`: as many as this command takes.
  void add_options(CLI::App& command, int most_ranks = kMostThreadRanks);
  void require_even_groups() const;  // throws UsageError
  void require_used() const;         // throws UsageError for options that the device ignores
  // Ranks of a group hold the same tokens.
  int group_of(int rank) const { return rank / layer.tp_size; }
  LayerOptions layer_options(int64_t max_tokens) const;

 private:
  const CLI::App* command_ = nullptr;
};

// "in f8_e4m3, by kernels, ..."; empty where nothing is to be said.
std::string describe_travel(const Strategy& strategy);

// Throws UsageError.
DeviceKind device_from(const std::string& name);

}  // namespace switchyard::cli
