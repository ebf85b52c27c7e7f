// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/layer.cc -- the layer. Its calls are collective: a rank whose arguments no C++ type can hold takes part all
// the same (refuse_create, refuse_forward), so that no peer waits for it.
#include "switchyard/layer.h"

#include <algorithm>

#include "c_api/config.h"
#include "c_api/handles.h"
#include "c_api/tensor.h"
#include "c_api/versioned.h"
#include "switchyard/fused_experts.h"

namespace switchyard::c_api {
namespace {

static_assert(SWY_CONTIGUOUS == int(Layout::Contiguous) && SWY_MASKED == int(Layout::Masked));

swy_forward_args default_args() {
  swy_forward_args args{};
  args.size = sizeof args;
  args.max_tokens = ForwardArgs{}.max_tokens;
  return args;
}

swy_report no_report() {
  swy_report report{};
  report.size = sizeof report;
  report.masked_max_tokens = ForwardReport{}.masked_max_tokens;
  return report;
}

swy_status view_of_layer(const char* op, const swy_layer* layer, const char* name, swy_tensor* out,
                         Tensor (MoeLayer::*view)() const) {
  return guarded([&] {
    const MoeLayer& of = *handle(op, "layer", layer).layer;
    required(op, name, out) = from_view((of.*view)());
  });
}

ForwardArgs to_args(const char* op, const swy_forward_args& c) {
  int64_t output_stride = 0, hidden_stride = 0;
  const Tensor output = rows_of(op, "output", c.output, output_stride);
  const Tensor hidden = rows_of(op, "hidden", c.hidden, hidden_stride);
  return {.output = output,
          .hidden = hidden,
          .ids = dense(op, "ids", c.ids),
          .weights = dense(op, "weights", c.weights),
          .expert_map = dense(op, "expert_map", c.expert_map),
          .token_ids = dense(op, "token_ids", c.token_ids),
          .max_tokens = c.max_tokens,
          .stream = static_cast<CUstream_st*>(c.stream),
          .hidden_stride = hidden_stride,
          .output_stride = output_stride,
          .workspace = {c.workspace.data, c.workspace.bytes}};
}

struct LayerArguments {
  MoeConfig config;
  LayerWeights weights;
  LayerOptions options;
};

LayerArguments arguments_of(const char* op, swy_context* context, const swy_config* config,
                            const swy_weights* weights, const swy_options* options) {
  const swy_context& of = handle(op, "context", context);
  return {to_config(op, config), handle(op, "weights", weights).weights,
          to_options(op, options, of)};
}

void check_report(const char* op, const swy_report* report) {
  if (report != nullptr) check_output(op, "report", report);
}

void write_report(const ForwardReport& did, swy_report* report) {
  if (report == nullptr) return;
  swy_report result = no_report();
  result.max_rows = did.max_rows;
  result.masked_max_tokens = did.masked_max_tokens;
  result.layout = static_cast<int32_t>(did.layout);
  write(*report, result, report->size);
}

// Lines for people; no program depends on them.
std::string explanation(const MoeLayer& layer) {
  const Strategy& s = layer.strategy();
  std::string text = cat("layer     ", describe(layer.config()), "\nstrategy  ", s.name, ": ",
                         s.reason, "\nworkspace ", layer.workspace_bytes(), " bytes, predicted ",
                         static_cast<int64_t>(s.predicted_us), " us\n");
  if (!s.gemms.empty()) text += cat("tiles     ", s.gemms, "\n");
  if (!s.carrier.empty()) text += cat("rows      ", s.carrier, "\n");
  for (const std::string& warning : s.warnings) text += cat("warning   ", warning, "\n");
  for (const Condition& c : s.conditions)
    text += cat(c.holds ? "ok        " : "no        ", c.text, "\n");
  return text;
}

void write_text(const char* op, const std::string& from, char* text, size_t capacity,
                size_t* needed) {
  SWITCHYARD_C_REQUIRE(text != nullptr || (capacity == 0 && needed != nullptr), op,
                       ": text=NULL, capacity=", capacity,
                       ", need memory for the text, or a place for what it needs. Pass one.");
  if (needed != nullptr) *needed = from.size() + 1;
  if (text == nullptr || capacity == 0) return;
  text[from.copy(text, capacity - 1)] = '\0';
}

}  // namespace
}  // namespace switchyard::c_api

extern "C" {

swy_status swy_forward_args_init(swy_forward_args* args, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_forward_args_init", args, size, default_args());
}

swy_status swy_report_init(swy_report* report, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_report_init", report, size, no_report());
}

swy_status swy_workspace_bytes(swy_context* context, const swy_config* config, int32_t num_ranks,
                               const swy_options* options, size_t* bytes) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_workspace_bytes";
    const swy_context& of = handle(kOp, "context", context);
    check_range(kOp, "num_ranks", num_ranks, 1, 4096);
    const switchyard::MoeConfig layer = to_config(kOp, config);
    const switchyard::LayerOptions with = to_options(kOp, options, of);
    required(kOp, "bytes", bytes) = switchyard::MoeLayer::workspace_bytes(layer, num_ranks, with);
  });
}

swy_status swy_layer_create(swy_context* context, const swy_config* config,
                            const swy_weights* weights, const swy_group* group,
                            const swy_options* options, swy_layer** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_layer_create";
    std::shared_ptr<switchyard::Communicator> ranks;
    if (group != nullptr) ranks = handle(kOp, "group", group).communicator;
    LayerArguments with;
    using switchyard::MoeLayer;
    try {
      required(kOp, "out", out);
      with = arguments_of(kOp, context, config, weights, options);
    } catch (...) {
      if (ranks) MoeLayer::refuse_create(*ranks);
      throw;
    }
    auto layer = std::make_unique<swy_layer>();
    layer->communicator = ranks;
    layer->layer = ranks ? MoeLayer::create(with.config, with.weights, *ranks, with.options)
                         : MoeLayer::create(with.config, with.weights, with.options);
    *out = layer.release();
  });
}

swy_status swy_layer_forward(swy_layer* layer, const swy_forward_args* args, swy_report* report) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_layer_forward";
    swy_layer& of = handle(kOp, "layer", layer);
    swy_forward_args given = default_args();
    switchyard::ForwardArgs with;
    try {
      given = read(kOp, "args", args, given);
      check_report(kOp, report);
      with = to_args(kOp, given);
    } catch (...) {
      of.layer->refuse_forward(given.max_tokens, static_cast<CUstream_st*>(given.stream));
      throw;
    }
    write_report(of.layer->forward(with), report);
  });
}

swy_status swy_fused_experts(swy_context* context, const swy_config* config,
                             const swy_weights* weights, const swy_options* options,
                             const swy_forward_args* args, swy_report* report) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_fused_experts";
    const LayerArguments layer = arguments_of(kOp, context, config, weights, options);
    const auto with = to_args(kOp, read(kOp, "args", args, default_args()));
    check_report(kOp, report);
    write_report(switchyard::fused_experts(layer.config, layer.weights, layer.options, with),
                 report);
  });
}

swy_status swy_fused_experts_wait(void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] { switchyard::wait_fused_experts(static_cast<CUstream_st*>(stream)); });
}

swy_status swy_fused_experts_forget(void) {
  return switchyard::c_api::guarded([] { switchyard::forget_fused_experts(); });
}

swy_status swy_layer_wait(swy_layer* layer, void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    handle("swy_layer_wait", "layer", layer).layer->wait(static_cast<CUstream_st*>(stream));
  });
}

swy_status swy_layer_grow(swy_layer* layer, int64_t max_tokens, void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    handle("swy_layer_grow", "layer", layer)
        .layer->grow(max_tokens, static_cast<CUstream_st*>(stream));
  });
}

swy_status swy_layer_set_placement(swy_layer* layer, const int32_t* placement, int64_t num_slots,
                                   void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_layer_set_placement";
    swy_layer& of = handle(kOp, "layer", layer);
    required(kOp, "placement", placement);
    of.layer->set_placement(slots_of(kOp, placement, num_slots), static_cast<CUstream_st*>(stream));
  });
}

swy_status swy_layer_expert_loads(const swy_layer* layer, swy_tensor* loads) {
  using namespace switchyard;
  return c_api::view_of_layer("swy_layer_expert_loads", layer, "loads", loads,
                              &MoeLayer::expert_loads);
}

swy_status swy_layer_set_active_ranks(swy_layer* layer, const int32_t* ranks, int32_t num_ranks,
                                      void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_layer_set_active_ranks";
    swy_layer& of = handle(kOp, "layer", layer);
    check_range(kOp, "num_ranks", num_ranks, 1, kMostRanks);
    required(kOp, "ranks", ranks);
    of.layer->set_active_ranks({ranks, static_cast<size_t>(num_ranks)},
                               static_cast<CUstream_st*>(stream));
  });
}

swy_status swy_layer_missing_ranks(swy_layer* layer, void* stream, int32_t* ranks, int32_t capacity,
                                   int32_t* num_ranks) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_layer_missing_ranks";
    swy_layer& of = handle(kOp, "layer", layer);
    check_range(kOp, "capacity", capacity, 0, kMostRanks);
    if (capacity > 0) required(kOp, "ranks", ranks);
    int32_t& num = required(kOp, "num_ranks", num_ranks);
    const auto missing = of.layer->missing_ranks(static_cast<CUstream_st*>(stream));
    num = static_cast<int32_t>(missing.size());
    std::copy_n(missing.data(), std::min(capacity, num), ranks);
  });
}

swy_status swy_layer_dropped_routes(const swy_layer* layer, swy_tensor* routes) {
  using namespace switchyard;
  return c_api::view_of_layer("swy_layer_dropped_routes", layer, "routes", routes,
                              &MoeLayer::dropped_routes);
}

swy_status swy_layer_input_rows(const swy_layer* layer, swy_tensor* rows) {
  using namespace switchyard;
  return c_api::view_of_layer("swy_layer_input_rows", layer, "rows", rows, &MoeLayer::input_rows);
}

swy_status swy_layer_explain(const swy_layer* layer, char* text, size_t capacity, size_t* needed) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_layer_explain";
    const auto& of = *handle(kOp, "layer", layer).layer;
    write_text(kOp, explanation(of), text, capacity, needed);
  });
}

void swy_layer_destroy(swy_layer* layer) {
  switchyard::c_api::destroy(layer);
}

}  // extern "C"
