// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/weights.cc -- weights of a layer, from arrays or a checkpoint.
#include "switchyard/weights.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "errors.h"
#include "host.h"
#include "switchyard/checkpoint.h"

namespace switchyard::python {
namespace {

// Views of arrays, and what keeps their memory.
class KeptArrays {
 public:
  ConstTensor keep(const char* name, nb::handle array) {
    const Argument argument{"LayerWeights", name};
    ArrayView view = view_of(array, argument, Access::Read, Keep::Always);
    if (!view.present) return {};
    if (view.has_gaps())
      refuse(Errc::ShapeMismatch, "LayerWeights: ", name,
             " has gaps or another order of dimensions, need row-major. Pass a contiguous copy, or "
             "transposed=True with what is stored.");
    if (owners_.empty()) device_ = view.device;
    if (view.device != device_)
      refuse(Errc::ShapeMismatch, "LayerWeights: ", name, " is on ", describe(view.device),
             ", others are on ", describe(device_), ". Copy it first.");
    owners_.push_back(std::move(view.owner));
    return {view.data, view.dtype, view.extent(), view.device.kind};
  }
  DeviceIndex device() const { return device_; }
  std::shared_ptr<const void> owner() {
    return std::make_shared<std::vector<std::shared_ptr<void>>>(std::move(owners_));
  }

 private:
  std::vector<std::shared_ptr<void>> owners_;
  DeviceIndex device_;
};

void bind_layer_weights(nb::module_& m) {
  nb::enum_<GateUpOrder>(m, "GateUpOrder",
                         "How gate and up stand in w1. There is no default: the wrong one gives "
                         "plausible numbers.")
      .value("Unset", GateUpOrder::Unset, "refused for a gated activation")
      .value("GateUp", GateUpOrder::GateUp, "rows [0, I) are gate, rows [I, 2I) are up")
      .value("UpGate", GateUpOrder::UpGate, "rows [0, I) are up, rows [I, 2I) are gate")
      .value("Interleaved", GateUpOrder::Interleaved, "row 2i is gate, row 2i + 1 is up (gpt-oss)");
  nb::class_<HostWeights>(
      m, "LayerWeights",
      "The weights of one layer on one rank: views, whose memory is kept. 16-byte aligned, "
      "row-major, "
      "all on the layer's device; they must not change while a forward runs. E_local = E on one "
      "rank.\n\n"
      "  w1               bf16 [E_local, 2I, H]; [E_local, I, H] without a gate\n"
      "  w2               bf16 [E_local, H, I]\n"
      "  order            how gate and up stand in w1\n"
      "  b1, b2           f32 or bf16 [E_local, 2I], [E_local, H]; with MoeConfig.expert_bias\n"
      "  transposed       w1 is [E_local, H, 2I], w2 [E_local, I, H] (gpt-oss, Llama-4)\n"
      "  router           bf16 [E, H], f32 with router_f32; None: callers bring ids and weights\n"
      "  router_bias, correction_bias, expert_scale   f32 [E]\n"
      "  token_experts    i32 [V, K]\n"
      "  shared_w1, shared_w2, shared_gate            bf16 [2 Is, H], [H, Is], [1, H]\n"
      "  input_norm, down, output_norm, up            f32 [H], bf16 [L, H], f32 [L], bf16 [H, "
      "L]\n\n"
      "bf16 is ml_dtypes.bfloat16, torch.bfloat16 or its bits as uint16. Shapes are checked when a "
      "layer is made.")
      .def(
          "__init__",
          [](HostWeights* self, Array w1, Array w2, GateUpOrder order, Optional b1, Optional b2,
             bool transposed, Optional router, Optional router_bias, Optional correction_bias,
             Optional expert_scale, Optional token_experts, Optional shared_w1, Optional shared_w2,
             Optional shared_gate, GateUpOrder shared_order, Optional input_norm, Optional down,
             Optional output_norm, Optional up) {
            KeptArrays arrays;
            const auto keep = [&](const char* name, const Optional& array) {
              return arrays.keep(name, handle_of(array));
            };
            LayerWeights w;
            w.experts = {.order = order,
                         .w1 = arrays.keep("w1", w1),
                         .w2 = arrays.keep("w2", w2),
                         .b1 = keep("b1", b1),
                         .b2 = keep("b2", b2),
                         .transposed = transposed};
            w.router = {.weight = keep("router", router),
                        .bias = keep("router_bias", router_bias),
                        .correction_bias = keep("correction_bias", correction_bias),
                        .expert_scale = keep("expert_scale", expert_scale),
                        .token_experts = keep("token_experts", token_experts)};
            w.shared = {.order = shared_order,
                        .w1 = keep("shared_w1", shared_w1),
                        .w2 = keep("shared_w2", shared_w2),
                        .gate = keep("shared_gate", shared_gate)};
            w.path = {.input_norm = keep("input_norm", input_norm),
                      .down = keep("down", down),
                      .output_norm = keep("output_norm", output_norm),
                      .up = keep("up", up)};
            w.owner = arrays.owner();
            new (self) HostWeights{std::move(w), arrays.device()};
          },
          "w1"_a, "w2"_a, "order"_a, nb::kw_only(), "b1"_a = nb::none(), "b2"_a = nb::none(),
          "transposed"_a = false, "router"_a = nb::none(), "router_bias"_a = nb::none(),
          "correction_bias"_a = nb::none(), "expert_scale"_a = nb::none(),
          "token_experts"_a = nb::none(), "shared_w1"_a = nb::none(), "shared_w2"_a = nb::none(),
          "shared_gate"_a = nb::none(), "shared_order"_a = GateUpOrder::Unset,
          "input_norm"_a = nb::none(), "down"_a = nb::none(), "output_norm"_a = nb::none(),
          "up"_a = nb::none())
      .def_prop_ro("device", [](const HostWeights& w) { return describe(w.device); });
  m.def(
      "random_weights",
      [](const MoeConfig& config, uint64_t seed) {
        const nb::gil_scoped_release unlocked;
        return HostWeights{random_weights(config, 1, 0, seed), {}};
      },
      "config"_a, "seed"_a = 0,
      "Random bf16 weights of the config's shapes, for tests and benchmarks.");
  m.def(
      "to_device",
      [](const HostWeights& weights, const MoeConfig& config, const HostBackend& backend) {
        const auto& device = backend.use("to_device");
        const nb::gil_scoped_release unlocked;
        return HostWeights{to_device(weights.weights, config, 1, *device), backend.device()};
      },
      "weights"_a, "config"_a, "backend"_a,
      "A copy, arranged as kernels read it, in memory of the backend's device.");
}

void bind_checkpoint(nb::module_& m) {
  nb::class_<Checkpoint>(m, "Checkpoint",
                         "A checkpoint folder: config.json and safetensors, one file or several. "
                         "Reads config.json and "
                         "headers, no weights. layer_json describes the layer by hand instead of a "
                         "known family. Raises "
                         "BadFile for missing or damaged files, Unsupported for an unknown family "
                         "(with the known ones).")
      .def(nb::new_([](const std::filesystem::path& directory,
                       const std::optional<std::filesystem::path>& layer_json) {
             const nb::gil_scoped_release unlocked;
             return std::shared_ptr<Checkpoint>(
                 Checkpoint::open(directory, layer_json.value_or("")));
           }),
           "directory"_a, "layer_json"_a = nb::none())
      .def_prop_ro("family", &Checkpoint::family, "model_type: 'qwen3_moe', ...")
      .def_prop_ro("num_layers", &Checkpoint::num_layers, "Of the model, dense ones included.")
      .def_prop_ro("moe_layers", &Checkpoint::moe_layers, "Numbers of the MoE layers, ascending.")
      .def("module_path", &Checkpoint::module_path, "layer"_a,
           "The module path in transformers, e.g. 'model.layers.1.mlp'.")
      .def("config", &Checkpoint::config, "layer"_a,
           "Raises BadFile naming the MoE layers when `layer` is none of them.")
      .def("stored_format", &Checkpoint::stored_format, "layer"_a,
           "How the experts' weights are stored: 'bf16', 'fp8 in 128x128 blocks', 'mxfp4', ...")
      .def_prop_ro("quant_method", &Checkpoint::quant_method,
                   "What quantization_config calls its method; empty without one.")
      .def(
          "load_layer",
          [](const Checkpoint& checkpoint, int64_t layer) {
            const nb::gil_scoped_release unlocked;
            return HostWeights{checkpoint.load_layer(layer, 1, 0), {}};
          },
          "layer"_a,
          "Reads experts, router and shared experts into memory of the result, on the CPU, as "
          "bf16. "
          "Raises BadFile for missing tensors or wrong shapes, Unsupported for a form it names.");
}

}  // namespace

void bind_weights(nb::module_& m) {
  bind_layer_weights(m);
  bind_checkpoint(m);
}

}  // namespace switchyard::python
