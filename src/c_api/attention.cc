// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/attention.cc -- decode steps of linear attention.
#include <algorithm>

#include "c_api/handles.h"
#include "c_api/tensor.h"
#include "c_api/versioned.h"
#include "switchyard/linear_attention.h"

namespace switchyard::c_api {
namespace {

static_assert(SWY_CONV_NONE == int(ConvActivation::None) &&
              SWY_CONV_SILU == int(ConvActivation::Silu));
static_assert(SWY_READ_SLOT == int(StateFault::ReadSlot) &&
              SWY_READ_BLOCK == int(StateFault::ReadBlock) &&
              SWY_WRITE_SLOT == int(StateFault::WriteSlot) &&
              SWY_WRITE_BLOCK == int(StateFault::WriteBlock) &&
              SWY_PREFILL_ROWS == int(StateFault::PrefillRows));

template <class Step>
Step default_step() {
  Step step{};
  step.size = sizeof step;
  step.map.first_block = StateMap{}.first_block;
  return step;
}

StateMap to_map(const char* op, const swy_state_map& c) {
  for (const uint64_t word : c.reserved) check_reserved(op, "map.reserved", word);
  // A view of a wider table has fewer elements than the table: its rows are checked by row_stride.
  return {.sequence_lengths = dense(op, "sequence_lengths", c.sequence_lengths),
          .block_map = dense(op, "block_map", c.block_map),
          .num_slots = c.num_slots,
          .row_stride = c.row_stride == 0 ? c.num_slots : c.row_stride,
          .block_tokens = c.block_tokens,
          .first_block = c.first_block};
}

CUstream_st* to_stream(void* stream) {
  return static_cast<CUstream_st*>(stream);
}

ConvDecode to_step(const char* op, const swy_conv_decode& c) {
  check_reserved(op, "reserved", static_cast<uint32_t>(c.reserved));
  return {
      .output = dense(op, "output", c.output),
      .x = dense(op, "x", c.x),
      .state = strided(op, "state", c.state),
      .weight = dense(op, "weight", c.weight),
      .bias = dense(op, "bias", c.bias),
      .activation = enumerator<ConvActivation>(op, "activation", c.activation, SWY_CONV_SILU + 1),
      .map = to_map(op, c.map),
      .stream = to_stream(c.stream)};
}

ConvPrefillStates to_step(const char* op, const swy_conv_prefill_states& c) {
  return {.state = strided(op, "state", c.state),
          .x = dense(op, "x", c.x),
          .starts = dense(op, "starts", c.starts),
          .prefix_lengths = dense(op, "prefix_lengths", c.prefix_lengths),
          .map = to_map(op, c.map),
          .stream = to_stream(c.stream)};
}

DeltaRuleDecode to_step(const char* op, const swy_delta_rule_decode& c) {
  check_reserved(op, "reserved", static_cast<uint32_t>(c.reserved));
  DeltaRuleDecode step{.output = dense(op, "output", c.output),
                       .q = strided(op, "q", c.q),
                       .k = strided(op, "k", c.k),
                       .v = strided(op, "v", c.v),
                       .g = dense(op, "g", c.g),
                       .beta = dense(op, "beta", c.beta),
                       .state = strided(op, "state", c.state),
                       .l2_normalize = flag(op, "l2_normalize", c.l2_normalize),
                       .map = to_map(op, c.map),
                       .stream = to_stream(c.stream)};
  if (flag(op, "has_scale", c.has_scale)) step.scale = c.scale;
  return step;
}

template <class Step, class Operation>
swy_status run(const char* op, swy_attention* attention, const Step* given, Operation operation) {
  return guarded([&] {
    LinearAttention& of = *handle(op, "attention", attention).attention;
    (of.*operation)(to_step(op, read(op, "step", given, default_step<Step>())));
  });
}

}  // namespace
}  // namespace switchyard::c_api

extern "C" {

swy_status swy_conv_decode_init(swy_conv_decode* step, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_conv_decode_init", step, size, default_step<swy_conv_decode>());
}

swy_status swy_conv_prefill_states_init(swy_conv_prefill_states* step, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_conv_prefill_states_init", step, size, default_step<swy_conv_prefill_states>());
}

swy_status swy_delta_rule_decode_init(swy_delta_rule_decode* step, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_delta_rule_decode_init", step, size, default_step<swy_delta_rule_decode>());
}

swy_status swy_attention_create(swy_context* context, int64_t max_batch, swy_attention** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_attention_create";
    const swy_context& of = handle(kOp, "context", context);
    required(kOp, "out", out);
    auto attention = std::make_unique<swy_attention>();
    attention->attention = switchyard::LinearAttention::create(of.backend, max_batch);
    attention->max_batch = max_batch;
    *out = attention.release();
  });
}

swy_status swy_attention_conv_decode(swy_attention* attention, const swy_conv_decode* step) {
  using namespace switchyard::c_api;
  return run("swy_attention_conv_decode", attention, step,
             &switchyard::LinearAttention::conv_decode);
}

swy_status swy_attention_conv_prefill_states(swy_attention* attention,
                                             const swy_conv_prefill_states* step) {
  using namespace switchyard::c_api;
  return run("swy_attention_conv_prefill_states", attention, step,
             &switchyard::LinearAttention::conv_prefill_states);
}

swy_status swy_attention_delta_rule_decode(swy_attention* attention,
                                           const swy_delta_rule_decode* step) {
  using namespace switchyard::c_api;
  return run("swy_attention_delta_rule_decode", attention, step,
             &switchyard::LinearAttention::delta_rule_decode);
}

swy_status swy_attention_wait(swy_attention* attention, void* stream) {
  using namespace switchyard::c_api;
  return guarded([&] {
    handle("swy_attention_wait", "attention", attention).attention->wait(to_stream(stream));
  });
}

swy_status swy_attention_wait_words(swy_attention* attention, void* stream, int32_t* words,
                                    int64_t count) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_attention_wait_words";
    const swy_attention& of = handle(kOp, "attention", attention);
    check_range(kOp, "count", count, of.max_batch, of.max_batch);
    if (count > 0) required(kOp, "words", words);
    const auto status = of.attention->wait_status(to_stream(stream));
    std::copy_n(status.begin(), count, words);
  });
}

void swy_attention_destroy(swy_attention* attention) {
  switchyard::c_api::destroy(attention);
}

}  // extern "C"
