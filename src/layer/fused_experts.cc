// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/fused_experts.cc -- layers that are kept by what they were made of.
#include "switchyard/fused_experts.h"

#include <list>
#include <mutex>
#include <unordered_map>

#include "base/require.h"
#include "device/cuda_device.h"

namespace switchyard {
namespace {

struct KeptLayer {
  MoeConfig config;
  LayerWeights weights;
  LayerOptions options;
  std::unique_ptr<MoeLayer> layer;
};

class KeptLayers {
 public:
  MoeLayer& find_or_make(const MoeConfig& config, LayerWeights weights, LayerOptions options) {
    weights.owner = nullptr;
    if (!options.backend) options.backend = backend_of(options);
    const auto [first, last] = layers_.equal_range(weights.experts.w1.data);
    for (auto it = first; it != last; ++it)
      if (const KeptLayer& k = it->second;
          k.weights == weights && k.config == config && k.options == options)
        return *k.layer;
    auto layer = MoeLayer::create(config, weights, options);
    const auto at = layers_.emplace(weights.experts.w1.data,
                                    KeptLayer{config, weights, options, std::move(layer)});
    return *at->second.layer;
  }

  void wait(CUstream_st* stream) {
    for (auto& [address, kept] : layers_) kept.layer->wait(stream);
  }

  void clear() {
    layers_.clear();
    backends_.clear();
  }

 private:
  std::shared_ptr<Backend> backend_of(const LayerOptions& options) {
    const bool cuda = options.device == DeviceKind::Cuda;
    const std::pair device{options.device, cuda ? current_cuda_device() : 0};
    for (const auto& [of, backend] : backends_)
      if (of == device) return backend;
    auto backend = cuda ? make_cuda_backend({.num_sms = options.num_sms})
                        : make_cpu_backend(options.num_threads);
    backends_.push_back({device, backend});
    return backend;
  }

  std::unordered_multimap<const void*, KeptLayer> layers_;
  std::list<std::pair<std::pair<DeviceKind, int>, std::shared_ptr<Backend>>> backends_;
};

// Never destroyed: at the end of a process CUDA may be gone before it.
struct Kept {
  std::mutex mutex;
  KeptLayers layers;
};
Kept& kept() {
  static auto* const kept = new Kept;
  return *kept;
}

void check_uncopied(const MoeConfig& config, const LayerWeights& weights) {
  SWITCHYARD_REQUIRE(is_arranged(weights.experts), Unsupported,
                     "fused_experts: weights are not arranged, a copy would be kept. Call "
                     "arrange_weights once.");
  SWITCHYARD_REQUIRE(!config.router_f32 || !weights.router.weight.present(), Unsupported,
                     "fused_experts: router is f32, a copy would be kept. Pass ids and weights, or "
                     "use MoeLayer.");
}

}  // namespace

ForwardReport fused_experts(const MoeConfig& config, const LayerWeights& weights,
                            const LayerOptions& options, const ForwardArgs& args) {
  check_uncopied(config, weights);
  LayerOptions per_call = options;
  per_call.workspace_per_call = true;
  const std::lock_guard lock(kept().mutex);
  MoeLayer& layer = kept().layers.find_or_make(config, weights, per_call);
  const ForwardReport report = layer.forward(args);
  if (options.device == DeviceKind::Cpu) layer.wait();
  return report;
}

void wait_fused_experts(CUstream_st* stream) {
  const std::lock_guard lock(kept().mutex);
  kept().layers.wait(stream);
}

void forget_fused_experts() {
  const std::lock_guard lock(kept().mutex);
  kept().layers.clear();
}

}  // namespace switchyard
