// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/layer_options.cc
#include "layer_options.h"

#include <algorithm>
#include <filesystem>

#include "commands.h"

namespace switchyard::cli {

namespace fs = std::filesystem;

void LayerSource::add_options(CLI::App& command, Shares shares) {
  add_value(command, "--model", model_, "DIR",
            "Folder of a checkpoint: config.json and safetensors");
  add_number(command, "--layer", layer_, {0, INT32_MAX}, "N",
             "Layer of the model (see `switchyard models`)")
      ->default_str("");
  add_value(command, "--config", layer_json_, "layer.json",
            "Describes the layer by hand where the family is unknown (docs/guide/checkpoints.md)");
  add_value(command, "--preset", preset_, "NAME",
            "Instead of --model: a known model's shape with random weights");
  if (shares == Shares::No) return;
  add_choice(
      command, "--weights", forms_, {"bf16", "native", "fp8"},
      "With --model: experts of fp8 and mxfp4 dequantised, or native: fp8, with the numbers that "
      "are stored (half the bytes). Others are bf16. With --preset: random experts in bf16, or fp8 "
      "in blocks of 128x128");
  add_number(command, "--ep-size", ep_size_, {1, kMostRanks}, "N",
             "With --preset: the share of one of N expert-parallel ranks. Its E/N experts stand "
             "alone, and all K experts of a token are among them: what a rank sees after dispatch");
  add_number(command, "--ep-rank", ep_rank_, {0, kMostRanks - 1}, "N",
             "With --ep-size: which share, 0 to N-1");
}

void LayerSource::open() {
  require_usage(model_.empty() != preset_.empty(), "need either --model DIR or --preset NAME");
  if (!preset_.empty()) return open_preset();
  require_usage(ep_size_ == 1 && ep_rank_ == 0,
                "--ep-size and --ep-rank go with --preset; say --ranks with --model");
  checkpoint_ = Checkpoint::open(model_, layer_json_);
  require_usage(forms_ != "fp8",
                "--weights=fp8, goes with --preset. Say native to keep what --model has in fp8");
  require_usage(layer_ >= 0, "--layer is missing; `switchyard models --model {}` lists them",
                model_);
  config_ = checkpoint_->config(layer_);
  if (forms_ == "native") format_ = checkpoint_->native_format(layer_);
}

void LayerSource::open_preset() {
  require_usage(layer_json_.empty() && layer_ < 0, "--layer and --config go with --model");
  require_usage(forms_ != "native",
                "--weights=native, goes with --model; random weights are bf16 or fp8");
  config_ = find_preset(preset_).config;
  require_usage(ep_size_ >= 1 && config_.num_experts % ep_size_ == 0,
                "--ep-size={}, must divide the {} experts of {}", ep_size_, config_.num_experts,
                preset_);
  require_usage(ep_rank_ >= 0 && ep_rank_ < ep_size_, "--ep-rank={}, need 0 to {}", ep_rank_,
                ep_size_ - 1);
  if (forms_ == "fp8") format_ = fp8_blocks(config_);
  if (ep_size_ == 1) return;
  config_.num_experts /= ep_size_;
  config_.top_k = std::min(config_.top_k, config_.num_experts);
  config_.gate.num_groups = config_.gate.num_groups_kept = 1;  // groups are a rule over all experts
  weight_seed_ = static_cast<uint64_t>(ep_rank_);
}

std::string LayerSource::name() const {
  if (preset_.empty())
    return fmt::format("{} layer {} of {}", checkpoint_->family(), layer_, model_);
  const std::string share = ep_size_ > 1 ? fmt::format(", share {} of {}", ep_rank_, ep_size_) : "";
  return fmt::format("preset {}{}, random weights{}", preset_, share,
                     format_.dtype == DType::F8E4m3 ? ", experts in fp8" : "");
}

std::string LayerSource::module_path() const {
  return checkpoint_ ? checkpoint_->module_path(layer_) : "";
}

std::string LayerSource::stored_format() const {
  return checkpoint_ ? checkpoint_->stored_format(layer_) : "random";
}

void LayerSource::refuse_as_output(const std::string& output, const char* option) const {
  refuse_same_file(output, layer_json_, "--config", option);
  std::error_code ignored;
  for (const auto& file : fs::directory_iterator(model_, ignored))
    refuse_same_file(output, file.path().string(), "a file of --model", option);
}

LayerWeights LayerSource::weights(int num_ranks, int rank, const Progress& progress) const {
  const auto forms = forms_ == "native" ? WeightForms::Native : WeightForms::Bf16;
  if (checkpoint_) return checkpoint_->load_layer(layer_, num_ranks, rank, progress, forms);
  return random_weights(config_, num_ranks, rank, weight_seed_, format_);
}

void LayerSource::check_memory(int num_ranks, int num_here, size_t workspace_bytes,
                               DeviceKind device) const {
  const double weights = static_cast<double>(weight_bytes(config_, num_ranks, format_)) * num_here;
  const double workspaces = static_cast<double>(workspace_bytes) * num_here;
  const bool cpu = device == DeviceKind::Cpu;
  check_memory_of(describe_device(DeviceKind::Cpu), weights, cpu ? workspaces : 0);
  if (cpu) return;
  // Ranks take the devices in turn.
  const auto& gpu = describe_device(device);
  const int here = std::max(1, num_here), on_one = (here + gpu.num_devices - 1) / gpu.num_devices;
  const double share = static_cast<double>(on_one) / here;
  check_memory_of(gpu, weights * share, workspaces * share);
}

void LayerSource::check_memory_of(const DeviceDescription& device, double weights,
                                  double workspaces) const {
  if (weights + workspaces <= device.memory_bytes) return;
  throw Error(Errc::Unsupported,
              fmt::format("{}: bytes={:.0f} ({:.0f} of weights), this {} has {:.0f}. Use {}.",
                          name(), weights + workspaces, weights,
                          device.kind == DeviceKind::Cpu ? "machine" : "GPU", device.memory_bytes,
                          preset_.empty() ? "fewer tokens" : "--ep-size or fewer tokens"));
}

void refuse_same_file(const std::string& output, const std::string& other, const char* what,
                      const char* option) {
  std::error_code ignored;
  require_usage(!fs::equivalent(output, other, ignored), "{}={}, is {} as well. Name another file",
                option, output, what);
}

void RunOptions::add_options(CLI::App& command, int most_ranks) {
  command_ = &command;
  add_number(command, "--ranks", ranks, {1, most_ranks}, "R",
             "Ranks that own the experts together");
  add_number(command, "--tp-size", layer.tp_size, {1, kMostRanks}, "N",
             "Consecutive ranks that hold the same tokens");
  add_choice(command, "--device", device, {"cpu", "cuda"}, "Where the layer runs");
  add_value(command, "--strategy,--moe_strategy", layer.strategy, "NAME",
            "auto, [dispatcher+]executor[+provider] such as normal+masked or masked+cublas, or a "
            "name of the reference system, rtp-llm (`switchyard explain` lists them)")
      ->envname("MOE_STRATEGY");
  add_number(command, "--masked-max-tokens,--masked_max_token_num", layer.masked_max_tokens,
             {0, kMostTokens}, "N", "hybrid: masked layout up to this many rows")
      ->envname("MASKED_MAX_TOKEN_NUM");
  command.add_option("--use-all-gather,--use_all_gather", layer.use_all_gather,
                     "Where every rank holds all tokens (tp = ranks), `auto` moves none");
  add_number(command, "--alignment", layer.alignment, {1, 1 << 16}, "N",
             "contiguous: rows of an expert are padded to a multiple");
  add_number(command, "--threads", layer.num_threads, {0, 1024}, "N",
             "CPU: threads of each rank; 0: cores / ranks");
  command.add_flag("--allow-repeated-experts", layer.allow_repeated_experts,
                   "A token's ids may repeat (larger masked buffers)");
  add_number(command, "--pieces", layer.token_pieces, {0, 1024}, "N",
             "Several ranks: pieces a call's tokens are cut into, so that one travels while "
             "another is computed; 0: chosen");
  command.add_flag_callback(
      "--push-rows", [this] { layer.fetch_rows = false; },
      "CUDA, several ranks: rows are pushed to their experts' ranks in dispatch, not "
      "fetched by the scatter");
  command.add_flag(
      "--sums-at-source", layer.sums_at_source,
      "low_latency: experts' rows come back, and their token's rank sums them: the bits "
      "of one rank");
  command.add_flag_callback(
      "--bf16-rows", [this] { layer.fp8_rows = false; },
      "Several ranks, experts in f8_e4m3: rows travel in bf16, twice the bytes, and are quantised "
      "where their experts are");
  add_number(command, "--link-blocks", layer.num_link_blocks, {0, 1 << 16}, "N",
             "CUDA: most thread blocks that move rows between ranks; 0: chosen");
  add_number(command, "--num-sms", layer.num_sms, {0, 1024}, "N",
             "CUDA: multiprocessors that GEMMs may use; 0: all");
  add_value(command, "--gemm1", layer.gemm1, "NAME",
            "CUDA: configuration of the experts' first grouped GEMM, one that `switchyard explain "
            "--all` lists; changes no bit")
      ->default_str("chosen");
  add_value(command, "--gemm2", layer.gemm2, "NAME", "CUDA: the same of their second GEMM")
      ->default_str("chosen");
  command.add_flag("--host-counts", layer.host_counts,
                   "CUDA: contiguous groups over cublas, and rows over NCCL, may wait for the "
                   "stream to read counts");
  command.add_flag_callback(
      "--no-peer-memory", [this] { layer.peer_memory = false; }, kNoPeerMemoryHelp);
}

std::string describe_travel(const Strategy& s) {
  std::string text = s.rows == DType::Bf16 ? "" : fmt::format("in {}", dtype_name(s.rows));
  if (!s.carrier.empty()) text += fmt::format("{}by {}", text.empty() ? "" : ", ", s.carrier);
  return text;
}

void RunOptions::require_even_groups() const {
  require_usage(ranks % layer.tp_size == 0, "--tp-size={}, must divide --ranks={}", layer.tp_size,
                ranks);
}

void RunOptions::require_used() const {
  if (device == "cuda") return refuse_unused(*command_, {"--threads"}, "--device cpu");
  refuse_unused(*command_,
                {"--push-rows", "--link-blocks", "--num-sms", "--host-counts", "--no-peer-memory",
                 "--gemm1", "--gemm2"},
                "--device cuda");
}

LayerOptions RunOptions::layer_options(int64_t max_tokens) const {
  LayerOptions options = layer;
  options.max_tokens = max_tokens;
  options.device = device_from(device);
  return options;
}

DeviceKind device_from(const std::string& name) {
  if (name == "cpu") return DeviceKind::Cpu;
  const auto& device = describe_device(DeviceKind::Cuda);
  require_usage(device.available, "--device=cuda, {}. Use --device cpu", device.unavailable_reason);
  return DeviceKind::Cuda;
}

}  // namespace switchyard::cli
