// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/fused_experts.cc -- a layer as a function: include/switchyard/fused_experts.h.
#include "switchyard/fused_experts.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <vector>

#include "bind.h"
#include "errors.h"
#include "fused_call.h"
#include "host.h"
#include "scratch.h"

namespace switchyard::python {
namespace {

// Bytes of the last layers asked for: planning one takes longer than a small call.
size_t kept_workspace_bytes(const MoeConfig& config, const LayerOptions& options) {
  struct Known {
    MoeConfig config;
    LayerOptions options;
    size_t bytes;
  };
  static std::mutex mutex;
  static auto* const known = new std::vector<Known>;
  constexpr size_t kMost = 64;
  const std::lock_guard lock(mutex);
  for (const Known& k : *known)
    if (k.config == config && k.options == options) return k.bytes;
  const size_t bytes = MoeLayer::workspace_bytes(config, 1, options);
  if (known->size() == kMost) known->erase(known->begin());
  known->push_back({config, options, bytes});
  return bytes;
}

int64_t dim_or_zero(ConstTensor t, int d) {
  return d < t.shape.rank() ? t.dim(d) : 0;
}

// The sizes say everything but the activation; what does not fit together is C++'s to refuse.
MoeConfig config_of(const ExpertWeights& experts, ConstTensor ids, const Activation& activation) {
  return {.hidden = dim_or_zero(experts.w2, 1),
          .intermediate = dim_or_zero(experts.w2, 2),
          .num_experts = dim_or_zero(experts.w1, 0),
          .top_k = dim_or_zero(ids, 1),
          .activation = activation,
          .expert_bias = experts.b1.present() || experts.b2.present(),
          .ids_are_given = true};
}

// Powers of two from 64 on, so that calls of many sizes are few layers.
int64_t capacity_for(int64_t tokens) {
  constexpr int64_t kLeast = 64;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(tokens, kLeast))));
}

}  // namespace

void check_not_forked(const char* operation) {
  static const int generation = fork_generation();
  if (generation != fork_generation())
    refuse(
        Errc::Unsupported, operation, ": the process was forked after the first call, ",
        "whose threads stayed in the parent. Spawn processes, or make a MoeLayer after the fork.");
}

void complete(FusedCall& call, const FusedOptions& options, DeviceKind device) {
  call.config = config_of(call.weights.experts, call.args.ids, options.activation);
  const int64_t tokens = dim_or_zero(call.args.hidden, 0);
  call.options.device = device;
  call.options.max_tokens = options.max_tokens >= 0 ? options.max_tokens : capacity_for(tokens);
  call.options.out_of_range_ids = options.out_of_range_ids;
  call.options.workspace_per_call = true;
  if (call.weights.experts.w1.dtype == DType::F8E4m3) call.options.experts = DType::F8E4m3;
}

size_t workspace_bytes(const FusedCall& call) {
  return kept_workspace_bytes(call.config, call.options);
}

void run(const FusedCall& call) {
  fused_experts(call.config, call.weights, call.options, call.args);
}

namespace {

DeviceIndex device_of(nb::handle hidden) {
  return view_of(hidden, {"fused_experts", "hidden"}, Access::Read, Keep::ForTheCall).device;
}

Array fused(const Array& hidden, const Array& w1, const Array& w2, const Array& ids,
            const Array& weights, GateUpOrder order, const Activation& activation,
            const Optional& b1, const Optional& b2, const Optional& expert_map,
            OutOfRangeIds out_of_range_ids, const Optional& output, int64_t max_tokens,
            std::optional<uintptr_t> stream, const Optional& workspace, const Optional& w1_scales,
            const Optional& w2_scales, ScaleBlock w1_block, ScaleBlock w2_block) {
  check_not_forked("fused_experts");
  const DeviceIndex device = device_of(hidden);
  CallArrays arrays("fused_experts", device);
  FusedCall call;
  call.args.hidden = arrays.read("hidden", hidden);
  call.args.ids = arrays.read("ids", ids);
  call.args.weights = arrays.read("weights", weights);
  call.args.expert_map = arrays.read("expert_map", handle_of(expert_map));
  const auto read = [&](const char* name, const Optional& array) {
    return arrays.read(name, handle_of(array));
  };
  call.weights.experts = {.order = order,
                          .w1 = arrays.read("w1", w1),
                          .w2 = arrays.read("w2", w2),
                          .b1 = read("b1", b1),
                          .b2 = read("b2", b2),
                          .w1_scales = scales_of(read("w1_scales", w1_scales), w1_block),
                          .w2_scales = scales_of(read("w2_scales", w2_scales), w2_block)};
  complete(call, {activation, out_of_range_ids, max_tokens}, device.kind);
  const nb::object result =
      output ? nb::object(*output)
             : new_array(hidden, DType::Bf16,
                         {dim_or_zero(call.args.hidden, 0), call.config.hidden}, device);
  call.args.output = arrays.write("output", result);
  call.args.stream = stream_of(stream, hidden, device);
  std::optional<Scratch> scratch;
  if (workspace) {
    call.args.workspace = arrays.workspace("workspace", *workspace);
  } else {
    scratch.emplace(hidden, device, workspace_bytes(call));
    call.args.workspace = scratch->workspace();
  }
  {
    const nb::gil_scoped_release unlocked;
    run(call);
  }
  return nb::borrow<Array>(result);
}

}  // namespace

void bind_fused_experts(nb::module_& m) {
  m.def(
      "fused_experts", &fused, "hidden"_a, "w1"_a, "w2"_a, "ids"_a, "weights"_a, nb::kw_only(),
      "order"_a, "activation"_a = Activation{}, "b1"_a = nb::none(), "b2"_a = nb::none(),
      "expert_map"_a = nb::none(), "out_of_range_ids"_a = OutOfRangeIds::Error,
      "output"_a = nb::none(), "max_tokens"_a = -1, "stream"_a = nb::none(),
      "workspace"_a = nb::none(), "w1_scales"_a = nb::none(), "w2_scales"_a = nb::none(),
      "w1_block"_a = ScaleBlock{}, "w2_block"_a = ScaleBlock{},
      "The routed experts of a layer as a function, for callers that have no place for a "
      "handle.\n\n"
      "  hidden   in   bf16 [T, H]; T may be 0\n"
      "  w1, w2   in   bf16 or f8_e4m3 [E, 2I, H] ([E, I, H] without a gate), [E, H, I]; 16-byte\n"
      "                aligned\n"
      "  ids      in   i32 or i64 [T, K]; -1: no expert\n"
      "  weights  in   f32 [T, K]\n"
      "  order         how gate and up stand in w1\n"
      "  b1, b2   in   f32 [E, 2I], [E, H], or None\n"
      "  expert_map, output, stream, workspace   as of MoeLayer.forward\n"
      "  out_of_range_ids   Error: BadRouting; NoExpert: as -1\n"
      "  max_tokens    capacity of the kept layer; -1: the power of two from T on, at least 64\n"
      "  w1_scales, w2_scales, w1_block, w2_block   of f8_e4m3, as of LayerWeights\n\n"
      "Returns output. The layer is made by the first call and kept: by sizes, capacity, and "
      "addresses of the weights. It has views and no copy, so memory that is used again for "
      "weights of the same shapes is read as it is then. Any thread; calls take turns. The "
      "interpreter's lock is released. CUDA graphs: call once with the same capacity before the "
      "capture. Raises as MoeLayer and forward; on CUDA wait_fused_experts raises what only the "
      "device knows.");
  m.def(
      "wait_fused_experts",
      [](uintptr_t stream) {
        check_not_forked("wait_fused_experts");
        const nb::gil_scoped_release unlocked;
        wait_fused_experts(reinterpret_cast<CUstream_st*>(stream));
      },
      "stream"_a = 0, "Waits for `stream`, then raises the first error of the kept layers.");
  m.def(
      "forget_fused_experts",
      [] {
        check_not_forked("forget_fused_experts");
        const nb::gil_scoped_release unlocked;
        forget_fused_experts();
      },
      "Frees every layer that is kept. None of their work may be under way.");
}

}  // namespace switchyard::python
