// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
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

namespace [[gnu::visibility("default")]] switchyard {

/// What experts of f8_e4m3 are in memory. Everything else is bf16 or f32, as load_layer says.
enum class WeightForms {
  Bf16,    // dequantised
  Native,  // as they are stored, half the bytes: fp8 in blocks of whole rows or of a multiple of 128
           // columns, per channel or per tensor; mxfp4 becomes fp8 in 128x128 blocks with the same
           // numbers, or is refused by block where it cannot. They run on CPUs and on GPUs with
           // compute capability 9.0. Experts of every other form are bf16
};

/// A checkpoint folder: config.json and safetensors, one file or several, with or without an index.
/// Thread-safe: ranks that are threads may share one.
class Checkpoint {
 public:
  /// Reads config.json and the index or the headers, no weights; config.json alone is enough for
  /// all but stored_format and load_layer. `directory` may also be a model's folder in the Hugging
  /// Face cache. Shards of an index are opened when a layer needs them, so those that no layer asks
  /// for may be missing. `layer_json` (optional) describes the layer by hand instead of a known
  /// family; docs/guide/checkpoints.md has the format. Throws Error(BadFile) for missing or damaged
  /// files (naming Git LFS pointers, links whose target is gone, and formats that are not read),
  /// Unsupported for an unknown family (with the known ones) and for a key that asks for another
  /// block than the family computes.
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

  /// How the experts' weights are stored: "bf16", "f16", "f32", "fp8 in 128x128 blocks", "fp8 per
  /// channel", "fp8 per tensor", "mxfp8", "mxfp4", "nvfp4", "int4 in groups of 32".
  /// In memory they are bf16, weight_bytes(config(layer), num_ranks) bytes a rank. Throws as
  /// load_layer does where they are missing or of another form.
  virtual std::string stored_format(int64_t layer) const = 0;
  /// What load_layer makes of this layer's experts with WeightForms::Native, unless it refuses a block
  /// of mxfp4, whose numbers are not looked at here. Throws as stored_format.
  virtual ExpertFormat native_format(int64_t layer) const = 0;
  /// What quantization_config calls its method, also one that is not read: "fp8", "gptq", ...
  /// Empty without a quantization_config.
  virtual const std::string& quant_method() const = 0;

  /// Reads this rank's experts, the router and the shared experts into memory of the result, as
  /// bf16 (f16 and f32 are rounded, quantised forms dequantised), packed as the kernels read them;
  /// a router of f16 or f32, biases, scales and norms as f32. Reads no other expert's bytes. Throws
  /// Error(BadFile) for missing tensors or shards or wrong shapes, Unsupported for a dtype or
  /// quantised form it names, for a tensor of the block that would change its numbers and is not
  /// read, and with Native for a block of mxfp4 that fp8 does not hold exactly, ShapeMismatch for a rank that is none of num_ranks.
  virtual LayerWeights load_layer(int64_t layer, int num_ranks, int rank,
                                  const Progress& progress = {},
                                  WeightForms forms = WeightForms::Bf16) const = 0;
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
