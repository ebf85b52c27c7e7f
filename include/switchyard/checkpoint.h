// include/switchyard/checkpoint.h -- public: MoE layers of Hugging Face checkpoints, and presets.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/config.h"
#include "switchyard/weights.h"

namespace switchyard {

/// A checkpoint folder: config.json and safetensors, one file or sharded with its index.
class Checkpoint {
 public:
  /// Reads config.json and the headers, no weights; config.json alone is enough for all but
  /// stored_format and load_layer. `layer_json` (optional) describes the layer by hand instead of a
  /// known family; docs/checkpoints.md has the format.
  /// Throws Error(BadFile) for missing or damaged files, Unsupported for an unknown family (with
  /// the known ones) and for a key that asks for another block than the family computes.
  static std::unique_ptr<Checkpoint> open(const std::filesystem::path& directory,
                                          const std::filesystem::path& layer_json = {});
  virtual ~Checkpoint() = default;

  virtual const std::string& family() const = 0;               // model_type: "qwen3_moe", ...
  virtual int64_t num_layers() const = 0;                      // of the model, dense ones included
  virtual const std::vector<int64_t>& moe_layers() const = 0;  // ascending
  /// The module path in transformers, e.g. "model.layers.1.mlp"; the prefix of oracle tensors.
  virtual std::string module_path(int64_t layer) const = 0;
  /// router_f32 says how the file has the router. Throws Error(BadFile) naming the MoE layers when
  /// `layer` is none of them, and the candidates when several tensors could be its router.
  virtual MoeConfig config(int64_t layer) const = 0;

  /// How the experts' weights are stored: "bf16", "f16", "f32", "fp8 in 128x128 blocks", "mxfp4".
  /// In memory they are bf16, weight_bytes(config(layer), num_ranks) bytes a rank. Throws as
  /// load_layer does where they are missing or of another dtype.
  virtual std::string stored_format(int64_t layer) const = 0;

  /// Reads this rank's experts, the router and the shared experts into memory of the result, as
  /// bf16 (f16 and f32 are rounded, fp8 and mxfp4 dequantised), packed as the kernels read them; a
  /// router of f16 or f32, biases, scales and norms as f32. Reads no other expert's bytes. Throws
  /// Error(BadFile) for missing tensors or wrong shapes, Unsupported for a dtype it names and for a
  /// tensor of the block that would change its numbers and is not read, ShapeMismatch when E is
  /// not divisible by num_ranks.
  virtual LayerWeights load_layer(int64_t layer, int num_ranks, int rank,
                                  const Progress& progress = {}) const = 0;
};

/// model_type values that Checkpoint::open knows, in order.
std::vector<std::string> known_families();

/// A layer of a known model's shape, for benchmarks: "qwen3-30b-a3b", "deepseek-v3", ...
struct Preset {
  std::string name;
  MoeConfig config;
};
const std::vector<Preset>& presets();
/// Throws Error(Unsupported) that lists the names.
const Preset& find_preset(std::string_view name);

}  // namespace switchyard
