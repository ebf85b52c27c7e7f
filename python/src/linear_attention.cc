// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/linear_attention.cc -- decode steps over paged states: include/switchyard/linear_attention.h.
#include "switchyard/linear_attention.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "bind.h"
#include "errors.h"
#include "host.h"
#include "own_tensor.h"

namespace switchyard::python {
namespace {

// What Python says of a StateMap; sizes of the table come from the array.
struct MapArguments {
  Optional sequence_lengths;
  Array block_map;
  int64_t block_tokens;
  std::optional<int64_t> num_slots;
  int64_t first_block;
};

StateMap map_of(CallArrays& arrays, const MapArguments& given) {
  const ConstStridedTensor table = arrays.read_strided("block_map", given.block_map);
  if (table.shape.rank() != 2 || (table.dim(1) > 1 && table.stride(1) != 1))
    refuse(Errc::ShapeMismatch,
           "LinearAttention: block_map is not i32 [B, num_slots] with rows without ",
           "gaps. Pass a table, or columns from its first on.");
  return {.sequence_lengths = arrays.read("sequence_lengths", handle_of(given.sequence_lengths)),
          .block_map = table,
          .num_slots = given.num_slots.value_or(table.dim(1)),
          .row_stride = table.dim(0) > 1 ? table.stride(0) : table.dim(1),
          .block_tokens = given.block_tokens,
          .first_block = given.first_block};
}

// One that a fork has copied is refused by its backend.
class HostAttention {
 public:
  HostAttention(std::shared_ptr<HostBackend> backend, int64_t max_batch)
      : backend_(std::move(backend)),
        attention_(LinearAttention::create(backend_->use("LinearAttention"), max_batch)) {}

  LinearAttention& use(const char* operation) const {
    (void)backend_->use(operation);
    return *attention_;
  }
  DeviceIndex device() const { return backend_->device(); }

  void conv_decode(const Array& output, const Array& x, const Array& state, const Array& weight,
                   const MapArguments& map, const Optional& bias, const std::string& activation,
                   const StreamAddress& stream) const {
    LinearAttention& attention = use("conv_decode");
    CallArrays arrays("conv_decode", device());
    const ConvDecode step{.output = arrays.write("output", output),
                          .x = arrays.read("x", x),
                          .state = arrays.write_strided("state", state),
                          .weight = arrays.read("weight", weight),
                          .bias = arrays.read("bias", handle_of(bias)),
                          .activation = conv_activation_from(activation),
                          .map = map_of(arrays, map),
                          .stream = stream_of(stream, x, device())};
    const nb::gil_scoped_release unlocked;
    attention.conv_decode(step);
  }

  void conv_prefill_states(const Array& state, const Array& x, const Array& starts,
                           const Array& prefix_lengths, const MapArguments& map,
                           const StreamAddress& stream) const {
    LinearAttention& attention = use("conv_prefill_states");
    CallArrays arrays("conv_prefill_states", device());
    const ConvPrefillStates step{.state = arrays.write_strided("state", state),
                                 .x = arrays.read("x", x),
                                 .starts = arrays.read("starts", starts),
                                 .prefix_lengths = arrays.read("prefix_lengths", prefix_lengths),
                                 .map = map_of(arrays, map),
                                 .stream = stream_of(stream, x, device())};
    const nb::gil_scoped_release unlocked;
    attention.conv_prefill_states(step);
  }

  void delta_rule_decode(const Array& output, const Array& q, const Array& k, const Array& v,
                         const Array& g, const Array& beta, const Array& state,
                         const MapArguments& map, bool l2_normalize, std::optional<float> scale,
                         const StreamAddress& stream) const {
    LinearAttention& attention = use("delta_rule_decode");
    CallArrays arrays("delta_rule_decode", device());
    const DeltaRuleDecode step{.output = arrays.write("output", output),
                               .q = arrays.read_strided("q", q),
                               .k = arrays.read_strided("k", k),
                               .v = arrays.read_strided("v", v),
                               .g = arrays.read("g", g),
                               .beta = arrays.read("beta", beta),
                               .state = arrays.write_strided("state", state),
                               .l2_normalize = l2_normalize,
                               .scale = scale,
                               .map = map_of(arrays, map),
                               .stream = stream_of(stream, q, device())};
    const nb::gil_scoped_release unlocked;
    attention.delta_rule_decode(step);
  }

 private:
  std::shared_ptr<HostBackend> backend_;
  std::unique_ptr<LinearAttention> attention_;
};

constexpr const char* kMapDoc =
    "  sequence_lengths  in  i32 [B]: L, the length including the first token of the step\n"
    "  block_map    in   i32 [B, num_slots]: block ids; rows may be those of a wider table\n"
    "  block_tokens      S, tokens per block\n"
    "  num_slots         bound of a slot; None: the columns of block_map\n"
    "  first_block       the lowest valid id: 1 where block 0 is padding, or 0\n"
    "  stream            a cudaStream_t; None: the current stream of the array's library\n\n"
    "Raises ShapeMismatch, Misaligned or Unsupported before anything is enqueued.";

std::string with_map(const char* text) {
  return std::string(text) + kMapDoc;
}

}  // namespace

void bind_linear_attention(nb::module_& m) {
  const std::string conv = with_map(
      "One step of a causal convolution over paged states, n tokens of B sequences; fp32, one "
      "rounding.\n\n"
      "  output       out  like x; may be x itself\n"
      "  x            in   bf16 or f32 [B, D], or [B, D, n] with n of 1 to 4\n"
      "  state     inout   bf16 or f32 [num_blocks, D, w - 1]; gaps between blocks only\n"
      "  weight       in   f32 [D, w], w of 2 to 6\n"
      "  bias         in   f32 [D], or None\n"
      "  activation        'none' or 'silu'\n");
  const std::string prefill = with_map(
      "The states that a convolution over whole prompts leaves behind.\n\n"
      "  state     inout   as of conv_decode\n"
      "  x            in   bf16 or f32 [T, D]\n"
      "  starts       in   i32 [B + 1]: sequence b has the rows [starts[b], starts[b + 1]) of x\n"
      "  prefix_lengths  in  i32 [B]: tokens that were there before; below 0: no sequence\n");
  const std::string delta = with_map(
      "One step of the gated delta rule over paged states, all fp32.\n\n"
      "  output       out  bf16 or f32 [B, n, Hv, Dv]\n"
      "  q, k         in   bf16 or f32 [B, n, Hk, Dk], any strides but 1 in the last dimension\n"
      "  v            in   as q, [B, n, Hv, Dv]\n"
      "  g            in   bf16 or f32 [B, n, Hv], logarithms of the decay\n"
      "  beta         in   bf16 or f32 [B, n, Hv], or [B, n, Hv, Dv]\n"
      "  state     inout   f32 [num_blocks, Hv, Dv, Dk]; gaps between blocks only\n"
      "  scale             None: 1 / sqrt(Dk)\n");
  nb::class_<HostAttention>(m, "LinearAttention",
                            "Decode steps of linear attention whose states are in blocks of a "
                            "cache, with a status word for each "
                            "of at most max_batch sequences. One object serves one thread at a "
                            "time. CUDA: each call enqueues one "
                            "kernel; a graph may capture it.")
      .def(nb::init<std::shared_ptr<HostBackend>, int64_t>(), "backend"_a, "max_batch"_a)
      .def(
          "conv_decode",
          [](const HostAttention& a, Array output, Array x, Array state, Array weight,
             Array sequence_lengths, Array block_map, int64_t block_tokens, Optional bias,
             const std::string& activation, std::optional<int64_t> num_slots, int64_t first_block,
             StreamAddress stream) {
            a.conv_decode(output, x, state, weight,
                          {sequence_lengths, block_map, block_tokens, num_slots, first_block}, bias,
                          activation, stream);
          },
          nb::kw_only(), "output"_a, "x"_a, "state"_a, "weight"_a, "sequence_lengths"_a,
          "block_map"_a, "block_tokens"_a, "bias"_a = nb::none(), "activation"_a = "none",
          "num_slots"_a = nb::none(), "first_block"_a = StateMap{}.first_block,
          "stream"_a = nb::none(), conv.c_str())
      .def(
          "conv_prefill_states",
          [](const HostAttention& a, Array state, Array x, Array starts, Array prefix_lengths,
             Array block_map, int64_t block_tokens, Optional sequence_lengths,
             std::optional<int64_t> num_slots, int64_t first_block, StreamAddress stream) {
            a.conv_prefill_states(
                state, x, starts, prefix_lengths,
                {sequence_lengths, block_map, block_tokens, num_slots, first_block}, stream);
          },
          nb::kw_only(), "state"_a, "x"_a, "starts"_a, "prefix_lengths"_a, "block_map"_a,
          "block_tokens"_a, "sequence_lengths"_a = nb::none(), "num_slots"_a = nb::none(),
          "first_block"_a = StateMap{}.first_block, "stream"_a = nb::none(), prefill.c_str())
      .def(
          "delta_rule_decode",
          [](const HostAttention& a, Array output, Array q, Array k, Array v, Array g, Array beta,
             Array state, Array sequence_lengths, Array block_map, int64_t block_tokens,
             bool l2_normalize, std::optional<float> scale, std::optional<int64_t> num_slots,
             int64_t first_block, StreamAddress stream) {
            a.delta_rule_decode(output, q, k, v, g, beta, state,
                                {sequence_lengths, block_map, block_tokens, num_slots, first_block},
                                l2_normalize, scale, stream);
          },
          nb::kw_only(), "output"_a, "q"_a, "k"_a, "v"_a, "g"_a, "beta"_a, "state"_a,
          "sequence_lengths"_a, "block_map"_a, "block_tokens"_a, "l2_normalize"_a = false,
          "scale"_a = nb::none(), "num_slots"_a = nb::none(),
          "first_block"_a = StateMap{}.first_block, "stream"_a = nb::none(), delta.c_str())
      .def(
          "wait",
          [](const HostAttention& a, uintptr_t stream) {
            LinearAttention& attention = a.use("wait");
            const nb::gil_scoped_release unlocked;
            attention.wait(reinterpret_cast<CUstream_st*>(stream));
          },
          "stream"_a = 0,
          "Waits for the work on `stream`. Raises BadState with the first sequence at fault and "
          "the bounds "
          "it crossed. All words are good again afterwards.")
      .def(
          "wait_status",
          [](const HostAttention& a, uintptr_t stream) {
            LinearAttention& attention = a.use("wait_status");
            const nb::gil_scoped_release unlocked;
            return attention.wait_status(reinterpret_cast<CUstream_st*>(stream));
          },
          "stream"_a = 0,
          "As wait, without raising: the words as they were. Bits: 1 ReadSlot, 2 ReadBlock, 4 "
          "WriteSlot, "
          "8 WriteBlock, 16 PrefillRows.")
      .def(
          "status",
          [](nb::object self) {
            const auto& a = nb::cast<const HostAttention&>(self);
            const ConstTensor words = a.use("status").status();
            auto* const kept = new nb::object(self);
            return OwnTensor{
                Tensor(const_cast<void*>(words.data), words.dtype, words.shape, words.device),
                a.device().index, true, std::shared_ptr<const void>(kept, [](const void* object) {
                  if (nb::detail::cleanup_guard guard{})
                    delete static_cast<const nb::object*>(object);
                })};
          },
          "i32 [max_batch] in memory of the backend's device: the words since the last wait.");
}

}  // namespace switchyard::python
