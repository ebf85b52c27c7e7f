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

void bind_formats(nb::module_& m) {
  nb::class_<ScaleBlock> block(m, "ScaleBlock",
                               "The values of an f8_e4m3 matrix that share a scale, fewer at its "
                               "edges. 128 x 128 are DeepSeek's blocks, 1 x WHOLE is a row (per "
                               "channel), WHOLE x WHOLE the matrix (per tensor).");
  bind_fields(block, Field{"rows", &ScaleBlock::rows, "Rows, or WHOLE."},
              Field{"cols", &ScaleBlock::cols, "Columns, a multiple of 128 or WHOLE."});
  bind_equality(block);
  block.attr("WHOLE") = ScaleBlock::kWhole;
  block.def("__repr__", [](const ScaleBlock& b) {
    const auto size = [](int64_t n) {
      return n == ScaleBlock::kWhole ? std::string("ScaleBlock.WHOLE") : std::to_string(n);
    };
    return "ScaleBlock(rows=" + size(b.rows) + ", cols=" + size(b.cols) + ")";
  });
  nb::class_<ExpertFormat> format(m, "ExpertFormat",
                                  "What routed experts are made of: bf16, or f8_e4m3 with scales "
                                  "of blocks.");
  bind_fields(format, Field{"dtype", &ExpertFormat::dtype, "'bf16' or 'f8_e4m3'."},
              Field{"w1", &ExpertFormat::w1, "Of f8_e4m3, the blocks of w1."},
              Field{"w2", &ExpertFormat::w2, "Of f8_e4m3, the blocks of w2."},
              Field{"num_slots", &ExpertFormat::num_slots,
                    "Of a layer with a placement: the weight slots of a rank; else 0."});
  bind_equality(format);
  format.def("__repr__", [](const ExpertFormat& f) {
    const nb::object w1 = nb::cast(f.w1), w2 = nb::cast(f.w2);
    return std::string("ExpertFormat(dtype='") + dtype_name(f.dtype) +
           "', w1=" + nb::cast<std::string>(nb::repr(w1)) +
           ", w2=" + nb::cast<std::string>(nb::repr(w2)) +
           ", num_slots=" + std::to_string(f.num_slots) + ")";
  });
}

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
      "row-major, all on the layer's device; they must not change while a forward runs. E_local = "
      "E on one rank.\n\n"
      "  w1               bf16 or f8_e4m3 [E_local, 2I, H]; [E_local, I, H] without a gate\n"
      "  w2               as w1 [E_local, H, I]\n"
      "  order            how gate and up stand in w1\n"
      "  b1, b2           f32 or bf16 [E_local, 2I], [E_local, H]; with MoeConfig.expert_bias\n"
      "  transposed       w1 is [E_local, H, 2I], w2 [E_local, I, H] (gpt-oss, Llama-4)\n"
      "  w1_scales, w2_scales   of f8_e4m3, f32: what the codes of a block are multiplied by,\n"
      "                   [E_local, ceil(rows / block.rows), ceil(columns / block.cols)]\n"
      "  w1_block, w2_block     the blocks: any rows, and all columns or a multiple of 128\n"
      "  num_slots        of a layer with a placement: E_local, the S / P weight slots of this\n"
      "                   rank, in their order; else 0\n"
      "  router           bf16 [E, H], f32 with router_f32; None: callers bring ids and weights\n"
      "  router_bias, correction_bias, expert_scale   f32 [E]\n"
      "  token_experts    i32 [V, K]\n"
      "  shared_w1, shared_w2, shared_gate            bf16 [2 Is, H], [H, Is], [1, H]\n"
      "  input_norm, down, output_norm, up            f32 [H], bf16 [L, H], f32 [L], bf16 [H, "
      "L]\n\n"
      "bf16 is ml_dtypes.bfloat16, torch.bfloat16 or its bits as uint16; f8_e4m3 is "
      "ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn or its bits as uint8. Shapes are checked "
      "when a layer is made.")
      .def(
          "__init__",
          [](HostWeights* self, Array w1, Array w2, GateUpOrder order, Optional b1, Optional b2,
             bool transposed, Optional router, Optional router_bias, Optional correction_bias,
             Optional expert_scale, Optional token_experts, Optional shared_w1, Optional shared_w2,
             Optional shared_gate, GateUpOrder shared_order, Optional input_norm, Optional down,
             Optional output_norm, Optional up, Optional w1_scales, Optional w2_scales,
             ScaleBlock w1_block, ScaleBlock w2_block, int64_t num_slots) {
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
                         .transposed = transposed,
                         .w1_scales = scales_of(keep("w1_scales", w1_scales), w1_block),
                         .w2_scales = scales_of(keep("w2_scales", w2_scales), w2_block),
                         .num_slots = num_slots};
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
          "up"_a = nb::none(), "w1_scales"_a = nb::none(), "w2_scales"_a = nb::none(),
          "w1_block"_a = ScaleBlock{}, "w2_block"_a = ScaleBlock{}, "num_slots"_a = 0)
      .def_prop_ro("device", [](const HostWeights& w) { return describe(w.device); })
      .def_prop_ro(
          "format", [](const HostWeights& w) { return format_of(w.weights.experts); },
          "What the routed experts are made of.");
}

void bind_functions(nb::module_& m) {
  m.def("fp8_blocks", &fp8_blocks, "config"_a,
        "f8_e4m3 in blocks of 128 x 128, as most are published; of w1 in as many rows as no "
        "block has both gate and up.");
  m.def(
      "random_weights",
      [](const MoeConfig& config, uint64_t seed, int num_ranks, int rank,
         const ExpertFormat& format) {
        const nb::gil_scoped_release unlocked;
        return HostWeights{random_weights(config, num_ranks, rank, seed, format), {}};
      },
      "config"_a, "seed"_a = 0, nb::kw_only(), "num_ranks"_a = 1, "rank"_a = 0,
      "format"_a = ExpertFormat{},
      "Random weights of the config's shapes, for tests and benchmarks: those of `rank`. An "
      "expert's depend on seed and its id only, so every split over ranks is the same layer.");
  m.def(
      "to_device",
      [](const HostWeights& weights, const MoeConfig& config, const HostBackend& backend,
         int num_ranks) {
        const auto& device = backend.use("to_device");
        const nb::gil_scoped_release unlocked;
        return HostWeights{to_device(weights.weights, config, num_ranks, *device),
                           backend.device()};
      },
      "weights"_a, "config"_a, "backend"_a, "num_ranks"_a = 1,
      "A copy, arranged as kernels read it, in memory of the backend's device.");
  m.def(
      "weights_of_slots",
      [](const HostWeights& all, const std::vector<int32_t>& expert_of_slot) {
        if (all.device.kind != DeviceKind::Cpu)
          refuse(Errc::Unsupported, "weights_of_slots: the weights are on ", describe(all.device),
                 ", need the CPU. Copy the result with to_device.");
        const nb::gil_scoped_release unlocked;
        return HostWeights{weights_of_slots(all.weights, expert_of_slot), {}};
      },
      "all"_a, "expert_of_slot"_a,
      "Copies of experts of `all`, whose w1 has one for each id, on the CPU: slot s of the "
      "result has those of expert_of_slot[s], zeros for -1. Of the slots of a rank it makes what "
      "that rank of a layer with a placement needs. Everything else is that of `all`, which is "
      "kept. Raises ShapeMismatch for an id that `all` has no expert of.");
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
      .def("native_format", &Checkpoint::native_format, "layer"_a,
           "The ExpertFormat that load_layer makes of this layer's experts with weights='native'.")
      .def_prop_ro("quant_method", &Checkpoint::quant_method,
                   "What quantization_config calls its method; empty without one.")
      .def(
          "load_layer",
          [](const Checkpoint& checkpoint, int64_t layer, int num_ranks, int rank,
             const std::string& weights) {
            const WeightForms forms = weight_forms("load_layer", weights);
            const nb::gil_scoped_release unlocked;
            return HostWeights{checkpoint.load_layer(layer, num_ranks, rank, {}, forms), {}};
          },
          "layer"_a, nb::kw_only(), "num_ranks"_a = 1, "rank"_a = 0, "weights"_a = "bf16",
          "Reads the experts of a rank, router and shared experts into memory of the result, on "
          "the CPU. weights: 'bf16', everything else is dequantised; 'native', experts of fp8 "
          "stay so, and those of mxfp4 become fp8 with the same numbers: half the bytes. Raises "
          "BadFile for missing tensors or wrong shapes, Unsupported for a form it names, "
          "ShapeMismatch for a rank that is none of num_ranks.");
}

}  // namespace

WeightForms weight_forms(const char* operation, const std::string& name) {
  if (name == "bf16") return WeightForms::Bf16;
  if (name == "native") return WeightForms::Native;
  refuse(Errc::Unsupported, operation, ": weights=", name,
         ", known are bf16 and native. Pass one of them.");
}

void bind_weights(nb::module_& m) {
  bind_formats(m);
  bind_layer_weights(m);
  bind_functions(m);
  bind_checkpoint(m);
}

}  // namespace switchyard::python
