// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/bench_placement.cc -- what it costs that ids become weight slots and are counted
// (docs/decisions/0072): a layer of one rank with experts in their order, counted, and in slots.
//
//   tokens  routing  operation  in order us  counted us  in slots us
//
// Operations are those that write ids, and the layer. Medians, cold L2.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <numeric>
#include <span>
#include <vector>

#include "switchyard/checkpoint.h"
#include "switchyard/measure.h"
#include "testing/routing.h"

namespace switchyard::bench {
namespace {

struct Device {
  DeviceKind kind;
  std::shared_ptr<Backend> backend;
};

// Tensors of a forward on the device.
class Call {
 public:
  Call(const Device& device, const MoeConfig& c, int64_t tokens)
      : hidden_(copy(device, testing::random_bf16({tokens, c.hidden}, 1).view())),
        ids_(copy(device, ids_of(c, tokens).view())),
        weights_(copy(device, testing::random_f32({tokens, c.top_k}, 3, 0.0f, 1.0f).view())),
        output_(copy(device, testing::random_bf16({tokens, c.hidden}, 1).view())) {}

  ForwardArgs with_gate() const { return {.output = output_.view, .hidden = hidden_.view}; }
  ForwardArgs with_ids() const {
    ForwardArgs args = with_gate();
    args.ids = ids_.view, args.weights = weights_.view;
    return args;
  }

 private:
  struct OnDevice {
    std::shared_ptr<void> memory;
    Tensor view;
  };
  static testing::Buffer<int32_t> ids_of(const MoeConfig& c, int64_t tokens) {
    return testing::random_ids(tokens, c.num_experts, c.top_k, testing::Skew::Zipf, 2);
  }
  static OnDevice copy(const Device& device, ConstTensor host) {
    OnDevice t{allocate(*device.backend, static_cast<size_t>(host.bytes())), {}};
    t.view = Tensor(t.memory.get(), host.dtype, host.shape, device.kind);
    copy_to_device(*device.backend, t.view, host.data);
    return t;
  }

  OnDevice hidden_, ids_, weights_, output_;
};

struct Layers {
  std::unique_ptr<MoeLayer> in_order, counted, in_slots;
};

Layers make_layers(const MoeConfig& config, const Device& device, int64_t tokens) {
  LayerWeights weights = random_device_weights(config, *device.backend, 1);
  LayerOptions options;
  options.max_tokens = tokens;
  options.device = device.kind;
  options.backend = device.backend;
  Layers layers;
  layers.in_order = MoeLayer::create(config, weights, options);
  options.count_loads = true;
  layers.counted = MoeLayer::create(config, weights, options);
  options.placement.resize(static_cast<size_t>(config.num_experts));
  std::iota(options.placement.rbegin(), options.placement.rend(), 0);
  weights.experts.num_slots = config.num_experts;
  layers.in_slots = MoeLayer::create(config, weights, options);
  return layers;
}

double time_of(std::span<const OpTime> times, const std::string& op) {
  for (const OpTime& t : times)
    if (op == "layer" ? t.is_layer : t.op == op) return t.us;
  return 0;
}

void print_times(const Layers& layers, Backend& backend, const ForwardArgs& args,
                 const char* routing, const char* op) {
  const auto in_order = measure_forward(*layers.in_order, args, backend);
  const auto counted = measure_forward(*layers.counted, args, backend);
  const auto in_slots = measure_forward(*layers.in_slots, args, backend);
  for (const char* name : {op, "layer"})
    fmt::print("{:6} {:>6} {:>12} {:8.2f} {:8.2f} {:8.2f}\n", args.hidden.dim(0), routing, name,
               time_of(in_order, name), time_of(counted, name), time_of(in_slots, name));
}

void run(const std::string& name, const std::string& preset,
         const std::vector<int64_t>& all_tokens) {
  const Device device = name == "cuda" ? Device{DeviceKind::Cuda, make_cuda_backend()}
                                       : Device{DeviceKind::Cpu, make_cpu_backend()};
  const MoeConfig& config = find_preset(preset).config;
  for (const int64_t tokens : all_tokens) {
    const Layers layers = make_layers(config, device, tokens);
    const Call call(device, config, tokens);
    print_times(layers, *device.backend, call.with_gate(), "gate", "choose_experts");
    print_times(layers, *device.backend, call.with_ids(), "i32", "resolve_ids");
  }
}

}  // namespace
}  // namespace switchyard::bench

int main(int argc, char** argv) {
  std::string device = "cuda", preset = "qwen3-30b-a3b";
  std::vector<int64_t> tokens{1, 128, 1024, 4096};
  CLI::App app("What weight slots cost");
  app.add_option("--device", device);
  app.add_option("--preset", preset);
  app.add_option("--tokens", tokens)->delimiter(',');
  CLI11_PARSE(app, argc, argv);
  try {
    switchyard::bench::run(device, preset, tokens);
  } catch (const switchyard::Error& e) {
    std::fprintf(stderr, "bench_placement: %s\n", e.what());
    return 1;
  }
  return 0;
}
