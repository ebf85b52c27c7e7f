// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/layer.cc -- a layer with its own memory: include/switchyard/layer.h.
#include "switchyard/layer.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <mutex>
#include <span>
#include <utility>

#include "bind.h"
#include "errors.h"
#include "host.h"
#include "own_tensor.h"
#include "scratch.h"

namespace switchyard::python {
namespace {

// ---- the gate

nb::tuple choose(Gate& gate, const MoeConfig& config, DeviceIndex device, const Array& hidden,
                 const Optional& token_ids, const StreamAddress& stream) {
  CallArrays arrays("gate", device);
  const ConstTensor rows = arrays.read("hidden", hidden);
  const int64_t tokens = rows.present() ? rows.dim(0) : 0;
  const nb::object ids = new_array(hidden, DType::I32, {tokens, config.top_k}, device);
  const nb::object weights = new_array(hidden, DType::F32, {tokens, config.top_k}, device);
  nb::object shared = nb::none();
  if (config.shared.num_scored > 0)
    shared = new_array(hidden, DType::F32, {tokens, config.shared.num_scored}, device);
  const Gate::Choice choice{.ids = arrays.write("ids", ids),
                            .weights = arrays.write("weights", weights),
                            .shared_weights = arrays.write("shared_weights", shared),
                            .token_ids = arrays.read("token_ids", handle_of(token_ids))};
  const Scratch scratch(hidden, device, gate.workspace_bytes(tokens));
  CUstream_st* const on = stream_of(stream, hidden, device);
  {
    const nb::gil_scoped_release unlocked;
    gate.choose(choice, rows, scratch.workspace(), on);
  }
  return shared.is_none() ? nb::make_tuple(ids, weights) : nb::make_tuple(ids, weights, shared);
}

// One thread at a time uses a backend; these calls make a gate, choose and forget it.
nb::tuple gate_function(const MoeConfig& config, const HostWeights& weights, const Array& hidden,
                        const Optional& token_ids, const StreamAddress& stream) {
  const auto backend = make_backend(weights.device, 0, 0);
  const auto gate = make_gate(config, weights.weights.router, backend->use("gate"));
  return choose(*gate, config, weights.device, hidden, token_ids, stream);
}

// ---- the layer

// What comes before a collective step; if it throws, the peers learn that this rank refused.
template <class Prepare>
auto prepared(const HostOptions& options, const Prepare& prepare) {
  try {
    return prepare();
  } catch (...) {
    if (options.communicator) {
      const nb::gil_scoped_release unlocked;
      MoeLayer::refuse_create(options.communicator->get());
    }
    throw;
  }
}

class HostLayer {
 public:
  HostLayer(const MoeConfig& config, const HostWeights& weights, HostOptions options)
      : communicator_(options.communicator),
        backend_(options.host_backend),
        workspace_(options.host_workspace) {
    prepared(options, [&] { take_backend(weights.device, options); });
    per_call_ = options.workspace_per_call;
    const nb::gil_scoped_release unlocked;
    layer_ = communicator_
                 ? MoeLayer::create(config, weights.weights, communicator_->get(), options)
                 : MoeLayer::create(config, weights.weights, options);
  }

  MoeLayer& use(const char* operation) const {
    (void)backend_->use(operation);
    return *layer_;
  }
  MoeLayer& peek() const { return *layer_; }
  DeviceIndex device() const { return backend_->device(); }
  const std::optional<ForwardReport>& report() const { return report_; }

  Array forward(const Array& hidden, const Optional& output, const Optional& ids,
                const Optional& weights, const Optional& expert_map, const Optional& token_ids,
                int64_t max_tokens, const StreamAddress& stream, const Optional& workspace) {
    MoeLayer& layer = use("forward");
    CallArrays arrays("forward", device());
    ForwardArgs args;
    args.max_tokens = max_tokens;
    nb::object result;
    std::optional<Scratch> scratch;
    try {
      args.stream = stream_of(stream, hidden, device());
      result = read_call(args, arrays, hidden, output, ids, weights, expert_map, token_ids);
      if (workspace) {
        args.workspace = arrays.workspace("workspace", *workspace);
      } else if (per_call_) {
        scratch.emplace(hidden, device(), layer.workspace_bytes());
        args.workspace = scratch->workspace();
      }
    } catch (...) {
      const nb::gil_scoped_release unlocked;
      layer.refuse_forward(max_tokens, args.stream);
      throw;
    }
    {
      const nb::gil_scoped_release unlocked;
      forward_of(layer, args);
    }
    return nb::borrow<Array>(result);
  }

  // Seconds of the host in `calls` forwards, of C++ alone.
  double time_forward(const Array& hidden, const Array& output, const Array& ids,
                      const Array& weights, int64_t calls) {
    MoeLayer& layer = use("forward");
    CallArrays arrays("forward", device());
    ForwardArgs args;
    args.stream = stream_of(StreamAddress(), hidden, device());
    read_call(args, arrays, hidden, output, ids, weights, {}, {});
    const nb::gil_scoped_release unlocked;
    const auto start = std::chrono::steady_clock::now();
    for (int64_t call = 0; call < calls; ++call) forward_of(layer, args);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  void forward_of(MoeLayer& layer, const ForwardArgs& args) {
    report_ = layer.forward(args);
    if (device().kind == DeviceKind::Cpu) layer.wait();
  }

  void take_backend(DeviceIndex of_weights, HostOptions& options) {
    const DeviceKind device =
        of_weights.kind == DeviceKind::Cuda ? DeviceKind::Cuda : options.device;
    if (!backend_)
      backend_ = make_backend({device, of_weights.index}, options.num_threads, options.num_sms);
    options.device = backend_->device().kind;
    options.backend = backend_->use("MoeLayer");
    if (workspace_) options.shared_workspace = workspace_->shared;
    if (options.lent_workspace) take_workspace(*options.lent_workspace, options);
  }

  void take_workspace(const Array& array, HostOptions& options) {
    const ArrayView view = view_of(array, {"MoeLayer", "workspace"}, Access::Write, Keep::Always);
    if (view.has_gaps() || view.device != device())
      refuse(Errc::ShapeMismatch, "MoeLayer: workspace is on ", describe(view.device),
             view.has_gaps() ? " and has gaps" : "", ", need memory without gaps on ",
             describe(device()), ". Pass an array of bytes there.");
    options.workspace = {view.data,
                         static_cast<size_t>(view.extent().count() * dtype_bytes(view.dtype))};
    lent_ = view.owner;
  }

  // All but the stream and the workspace; returns what output is.
  nb::object read_call(ForwardArgs& args, CallArrays& arrays, const Array& hidden,
                       const Optional& output, const Optional& ids, const Optional& weights,
                       const Optional& expert_map, const Optional& token_ids) const {
    const MoeConfig& config = layer_->config();
    args.hidden = arrays.read_rows("hidden", hidden, args.hidden_stride);
    args.ids = arrays.read("ids", handle_of(ids));
    args.weights = arrays.read("weights", handle_of(weights));
    args.expert_map = arrays.read("expert_map", handle_of(expert_map));
    args.token_ids = arrays.read("token_ids", handle_of(token_ids));
    nb::object result =
        output
            ? nb::object(*output)
            : new_array(hidden, config.f32_sums ? DType::F32 : DType::Bf16,
                        {args.hidden.present() ? args.hidden.dim(0) : 0, config.hidden}, device());
    args.output = arrays.write_rows("output", result, args.output_stride);
    return result;
  }

  std::shared_ptr<HostCommunicator> communicator_;  // null: one rank. These outlive the layer
  std::shared_ptr<HostBackend> backend_;
  std::shared_ptr<HostWorkspace> workspace_;
  std::shared_ptr<void> lent_;
  bool per_call_ = false;
  std::unique_ptr<MoeLayer> layer_;
  std::optional<ForwardReport> report_;
};

// Counters of the layer, which they keep; None where nothing is counted.
template <Tensor (MoeLayer::*counters)() const>
std::optional<OwnTensor> counters_of(nb::handle self) {
  const auto& layer = nb::cast<const HostLayer&>(self);
  const Tensor counts = (layer.peek().*counters)();
  if (!counts.present()) return std::nullopt;
  return OwnTensor{counts, layer.device().index, false, reference_to(self)};
}

// The view keeps the layer, whose lent workspace it may be, and memory that `grow` replaces.
std::optional<OwnTensor> input_rows_of(nb::handle self) {
  using Kept = std::pair<std::shared_ptr<const void>, std::shared_ptr<void>>;
  const auto& layer = nb::cast<const HostLayer&>(self);
  const Tensor rows = layer.peek().input_rows();
  if (!rows.present()) return std::nullopt;
  return OwnTensor{rows, layer.device().index, false,
                   std::make_shared<Kept>(reference_to(self), layer.peek().workspace_memory())};
}

HostOptions options_of(const nb::kwargs& options) {
  return nb::cast<HostOptions>(nb::type<HostOptions>()(**options));
}

size_t bytes_of_workspace(const MoeConfig& config, int num_ranks, const nb::kwargs& keywords) {
  HostOptions options = options_of(keywords);
  if (options.host_backend) options.device = options.host_backend->device().kind;
  const nb::gil_scoped_release unlocked;
  return MoeLayer::workspace_bytes(config, num_ranks, options);
}

// With a placement all experts are read, and copied into the slots of this rank. The layer refuses
// what is no placement.
LayerWeights load_weights(const Checkpoint& checkpoint, int64_t layer, const HostOptions& options,
                          WeightForms forms) {
  if (options.placement.empty())
    return checkpoint.load_layer(layer, options.num_ranks(), options.rank(), {}, forms);
  const std::span<const int32_t> slots = options.placement;
  const size_t each = slots.size() / static_cast<size_t>(options.num_ranks());
  return weights_of_slots(checkpoint.load_layer(layer, 1, 0, {}, forms),
                          slots.subspan(static_cast<size_t>(options.rank()) * each, each));
}

HostLayer* from_pretrained(const std::filesystem::path& directory, int64_t layer,
                           const std::optional<std::filesystem::path>& layer_json,
                           const std::string& forms, const nb::kwargs& keywords) {
  HostOptions options = options_of(keywords);
  MoeConfig config;
  HostWeights weights;
  prepared(options, [&] {
    const WeightForms wanted = weight_forms("from_pretrained", forms);
    {
      const nb::gil_scoped_release unlocked;
      const auto checkpoint = Checkpoint::open(directory, layer_json.value_or(""));
      config = checkpoint->config(layer);
      weights.weights = load_weights(*checkpoint, layer, options, wanted);
    }
    if (options.host_backend ? options.host_backend->device().kind != DeviceKind::Cuda
                             : options.device != DeviceKind::Cuda)
      return;
    if (!options.host_backend)
      options.host_backend = make_backend({DeviceKind::Cuda, 0}, 0, options.num_sms);
    const auto& backend = options.host_backend->use("from_pretrained");
    weights = {to_device(weights.weights, config, options.num_ranks(), *backend),
               options.host_backend->device()};
  });
  return new HostLayer(config, weights, std::move(options));
}

// ---- options

template <class Base, class Member>
Field<HostOptions, Member> option(const char* name, Member Base::*member, const char* doc) {
  return {name, static_cast<Member HostOptions::*>(member), doc};
}

void bind_options(nb::module_& m) {
  nb::enum_<OutOfRangeIds>(m, "OutOfRangeIds",
                           "What given ids are that name no expert of the layer and are not -1.")
      .value("Error", OutOfRangeIds::Error, "BadRouting, the output is NaN")
      .value("NoExpert", OutOfRangeIds::NoExpert, "as -1: engines pad with E or E_local");
  nb::class_<HostOptions> options(m, "LayerOptions", "Choices for one layer.");
  bind_fields(
      options,
      option("max_tokens", &PlanOptions::max_tokens, "Capacity: most tokens in one call; >= 0."),
      option("strategy", &PlanOptions::strategy,
             "auto, [dispatcher+]executor[+provider], or a known name."),
      option("device", &LayerOptions::device,
             "'cpu' or 'cuda'; where weights are on a GPU, that GPU."),
      option("num_threads", &LayerOptions::num_threads, "CPU: threads; 0: one per core."),
      option("out_of_range_ids", &LayerOptions::out_of_range_ids, "Of given ids."),
      option("backend", &HostOptions::host_backend,
             "Shared with other layers of this thread; None: made here."),
      option("shared_workspace", &HostOptions::host_workspace,
             "Shared with layers whose calls follow each other; None: the layer's own."),
      option("workspace", &HostOptions::lent_workspace,
             "An array of any dtype on the layer's device, workspace_bytes of it, at a multiple of "
             "128: lent for the layer's life, which keeps it. At most one of workspace, "
             "shared_workspace and workspace_per_call."),
      option("communicator", &HostOptions::communicator,
             "This rank among those that share the layer, each with E / P experts; None: one rank. "
             "Making, calling and growing the layer are collective then, wrong arguments "
             "included."),
      option("workspace_per_call", &LayerOptions::workspace_per_call,
             "forward takes its workspace, or memory of the array's library."),
      option("strided_rows", &LayerOptions::strided_rows,
             "Rows of hidden and output may have gaps; such a call copies them."),
      option("poison_workspace", &LayerOptions::poison_workspace,
             "For debugging: forward first fills the workspace with NaN."),
      option("masked_max_tokens", &PlanOptions::masked_max_tokens,
             "hybrid: masked layout up to this many rows, inclusive."),
      option("alignment", &PlanOptions::alignment, "Of contiguous groups, >= 1."),
      option("allow_repeated_experts", &PlanOptions::allow_repeated_experts,
             "A token's ids may repeat; masked buffers grow by K."),
      option("workspace_limit_bytes", &PlanOptions::workspace_limit_bytes,
             "A larger workspace is refused, with its bytes."),
      option("num_sms", &PlanOptions::num_sms, "CUDA: multiprocessors of the GEMMs; 0: all."),
      option("host_counts", &PlanOptions::host_counts,
             "CUDA: contiguous groups over cuBLAS may read counts on the host, and so may the "
             "normal dispatcher over NCCL; forward then waits and cannot be captured."),
      option("fp8_rows", &PlanOptions::fp8_rows,
             "Several ranks, experts in f8_e4m3: rows travel quantised, half the bytes; else in "
             "bf16. Changes no bit."),
      option("tp_size", &PlanOptions::tp_size, "Consecutive ranks that hold the same tokens."),
      option("use_all_gather", &PlanOptions::use_all_gather,
             "Lets `auto` skip communication where tp_size is the number of ranks."),
      option("sums_at_source", &PlanOptions::sums_at_source,
             "low_latency: rows of experts come back, one for each choice of a token, and its rank "
             "sums them: the bits of one rank."),
      option("token_pieces", &PlanOptions::token_pieces,
             "Several ranks: pieces that the tokens of a call are cut into, so that one travels "
             "while another is computed (CUDA); 0: chosen, 1: whole. Changes no bit."),
      option("fetch_rows", &PlanOptions::fetch_rows,
             "CUDA, several ranks: rows stay with their source until they are fetched; else they "
             "are pushed, which is slower. Changes no bit."),
      option("peer_memory", &PlanOptions::peer_memory,
             "CUDA, several ranks: kernels may reach the memory of other ranks of the host; else "
             "rows travel over NCCL. Changes no bit."),
      option("num_link_blocks", &LayerOptions::num_link_blocks,
             "CUDA, several ranks: most thread blocks that move rows between ranks; 0: chosen."),
      option("host_ordered", &LayerOptions::host_ordered,
             "CUDA, peer memory: the host meets its peers before a kernel waits for them. For "
             "tools that run one kernel at a time; slow, no capture."),
      option("placement", &LayerOptions::placement,
             "The expert in each of S weight slots over all ranks, -1: none, a row of "
             "Placement.physical_to_logical, equal on every rank. Rank p has slots [p S / P, (p "
             "+ 1) S / P); S is a multiple of P, every expert has a slot. Empty: experts stand "
             "in their order."),
      option("experts", &PlanOptions::experts,
             "Of workspace_bytes: what the routed experts are, 'bf16' or 'f8_e4m3'. A layer looks "
             "at its weights."),
      option("lost_rank_timeout", &PlanOptions::lost_rank_timeout,
             "Several ranks, at most 64, over low_latency and memory that they reach in each other "
             "(on CPUs threads): seconds, up to a year; not 0, a rank that does not come within it "
             "ends one call with an error, not the layer. See MoeLayer.set_active_ranks."),
      option(
          "gemm1", &PlanOptions::gemm1,
          "Hopper: the configuration of the experts' first grouped GEMM, one that `explain` lists; "
          "'': chosen. Changes no bit."),
      option("gemm2", &PlanOptions::gemm2, "The same of their second."),
      option("count_loads", &LayerOptions::count_loads,
             "Whether there are MoeLayer.expert_loads; ranks may differ."));
}

}  // namespace

void bind_layer(nb::module_& m) {
  bind_options(m);
  nb::class_<Strategy>(m, "Strategy", "Which dispatcher, executor and GEMM provider, and why.")
      .def_ro("name", &Strategy::name, "'local+masked', ...")
      .def_ro("reason", &Strategy::reason, "One line.")
      .def_ro("workspace_bytes", &Strategy::workspace_bytes, "At the capacity.")
      .def_ro("predicted_us", &Strategy::predicted_us, "By the cost model, of an even gate.")
      .def_ro("rows", &Strategy::rows, "What token rows travel as: 'bf16' or 'f8_e4m3'.")
      .def_ro("warnings", &Strategy::warnings)
      .def("__repr__",
           [](const Strategy& s) { return "<Strategy " + s.name + ": " + s.reason + ">"; });
  nb::class_<HostLayer>(m, "MoeLayer",
                        "The expert part of one MoE layer: gate, experts, combine, shared experts. "
                        "Keeps the memory of its "
                        "weights. Options are those of LayerOptions. One thread at a time calls "
                        "the layers of a backend; a "
                        "forward that finds another one there raises Unsupported. Raises "
                        "ShapeMismatch, Misaligned or "
                        "Unsupported before it allocates.")
      .def(
          "__init__",
          [](HostLayer* self, const MoeConfig& config, const HostWeights& weights,
             const nb::kwargs& options) {
            new (self) HostLayer(config, weights, options_of(options));
          },
          "config"_a, "weights"_a, "options"_a)
      .def_static("from_pretrained", &from_pretrained, "directory"_a, "layer"_a,
                  "layer_json"_a = nb::none(), nb::kw_only(), "weights"_a = "bf16", "options"_a,
                  "Layer `layer` of a checkpoint folder with its weights. weights: 'bf16' or "
                  "'native', as of Checkpoint.load_layer. Options are those of LayerOptions; "
                  "with a placement each rank reads all experts and copies those of its slots. "
                  "Raises what Checkpoint and MoeLayer raise.")
      .def(
          "forward", &HostLayer::forward, "hidden"_a, nb::kw_only(), "output"_a = nb::none(),
          "ids"_a = nb::none(), "weights"_a = nb::none(), "expert_map"_a = nb::none(),
          "token_ids"_a = nb::none(), "max_tokens"_a = -1, "stream"_a = nb::none(),
          "workspace"_a = nb::none(),
          "Experts of each token, weighted and summed, plus shared experts.\n\n"
          "  hidden      in   bf16 [T, H]; T may be 0\n"
          "  output      out  bf16 [T, H], f32 with f32_sums; overlaps no input. None: a new array "
          "of the\n"
          "                   library of hidden\n"
          "  ids         in   i32 or i64 [T, K]; -1: no expert. None: the layer's gate chooses\n"
          "  weights     in   f32 [T, K]; exactly if ids are given\n"
          "  expert_map  in   i32 [M]: the layer's id, or -1, of each id the caller's ids choose "
          "from\n"
          "  token_ids   in   i32 or i64 [T], for layers that choose by token id\n"
          "  max_tokens       bound of T in this call; -1: the capacity\n"
          "  stream           a cudaStream_t; None: the current stream of the library of hidden\n"
          "  workspace   inout  any dtype, workspace_bytes; with workspace_per_call\n\n"
          "Returns output. The interpreter's lock is released. CUDA: enqueues and returns; arrays "
          "stay "
          "alive and unchanged until the work is done, errors that only the device knows are "
          "raised by "
          "wait() or the next call. CPU: the work is done, and such errors are raised here. Raises "
          "ShapeMismatch or Misaligned for these arguments, BadRouting for ids out of range, "
          "Unsupported "
          "where a gradient would be missing.")
      .def("_time_forward", &HostLayer::time_forward, "hidden"_a, "output"_a, "ids"_a, "weights"_a,
           "calls"_a,
           "Seconds of the host in `calls` forwards of C++ alone, for switchyard.overhead.")
      .def("__call__", &HostLayer::forward, "hidden"_a, nb::kw_only(), "output"_a = nb::none(),
           "ids"_a = nb::none(), "weights"_a = nb::none(), "expert_map"_a = nb::none(),
           "token_ids"_a = nb::none(), "max_tokens"_a = -1, "stream"_a = nb::none(),
           "workspace"_a = nb::none(), "As forward.")
      .def(
          "gate",
          [](const HostLayer& self, const Array& hidden, const Optional& token_ids,
             const StreamAddress& stream) {
            MoeLayer& layer = self.use("gate");
            return choose(layer.gate(), layer.config(), self.device(), hidden, token_ids, stream);
          },
          "hidden"_a, nb::kw_only(), "token_ids"_a = nb::none(), "stream"_a = nb::none(),
          "ids i32 [T, K] and weights f32 [T, K] that the layer's gate chooses for hidden bf16 [T, "
          "H]; "
          "also shared_weights f32 [T, S] where shared experts are scored. Raises Unsupported "
          "without a "
          "router.")
      .def(
          "wait",
          [](const HostLayer& self, uintptr_t stream) {
            MoeLayer& layer = self.use("wait");
            const nb::gil_scoped_release unlocked;
            layer.wait(reinterpret_cast<CUstream_st*>(stream));
          },
          "stream"_a = 0,
          "Waits for every forward on `stream`. Raises what they could not: BadRouting, Cuda.")
      .def(
          "grow",
          [](const HostLayer& self, int64_t max_tokens, uintptr_t stream) {
            MoeLayer& layer = self.use("grow");
            const nb::gil_scoped_release unlocked;
            layer.grow(max_tokens, reinterpret_cast<CUstream_st*>(stream));
          },
          "max_tokens"_a, "stream"_a = 0,
          "The capacity becomes at least max_tokens. Waits; graphs must be captured again.")
      .def(
          "set_placement",
          [](const HostLayer& self, const std::vector<int32_t>& expert_of_slot, uintptr_t stream) {
            MoeLayer& layer = self.use("set_placement");
            const nb::gil_scoped_release unlocked;
            layer.set_placement(expert_of_slot, reinterpret_cast<CUstream_st*>(stream));
          },
          "expert_of_slot"_a, "stream"_a = 0,
          "From here on, in the order of `stream` (a cudaStream_t; 0: the default stream), ids "
          "go to the slots of another table of the layer's S weight slots "
          "(LayerOptions.placement), also those of graphs that were captured before. Not "
          "collective, but every rank calls it with the same table between the same two "
          "forwards: a forward in which tables differ raises ShapeMismatch on every rank. The "
          "host does not wait. Weights of a slot that no table in use names may be written. "
          "Raises Unsupported for a layer without a placement, or while `stream` is captured; "
          "ShapeMismatch for a table that breaks the rules, and the old one stays in use.")
      .def(
          "set_active_ranks",
          [](const HostLayer& self, const std::vector<int32_t>& ranks, uintptr_t stream) {
            MoeLayer& layer = self.use("set_active_ranks");
            const nb::gil_scoped_release unlocked;
            layer.set_active_ranks(ranks, reinterpret_cast<CUstream_st*>(stream));
          },
          "ranks"_a, "stream"_a = 0,
          "From here on, in the order of `stream` (a cudaStream_t; 0: the default stream), calls "
          "have these ranks only, this one among them, also those of graphs that were captured "
          "before. For layers with LayerOptions.lost_rank_timeout whose call raised Transport. Not "
          "collective, but every rank that goes on calls it with the same ranks between the same "
          "two forwards. Choices of experts whose rank is left out add nothing and are counted "
          "(dropped_routes), unless a placement has a replica elsewhere. A rank that is left out "
          "has ended, or its forward raised; it never comes back. The host does not wait. Raises "
          "Unsupported without lost_rank_timeout, or while `stream` is captured; ShapeMismatch for "
          "ranks that are none, were left out before, or lack this one.")
      .def(
          "missing_ranks",
          [](const HostLayer& self, uintptr_t stream) {
            MoeLayer& layer = self.use("missing_ranks");
            const nb::gil_scoped_release unlocked;
            return layer.missing_ranks(reinterpret_cast<CUstream_st*>(stream));
          },
          "stream"_a = 0,
          "The active ranks that a call waited for in vain, rising. Waits for `stream`; empty "
          "without LayerOptions.lost_rank_timeout.")
      .def_prop_ro(
          "dropped_routes", &counters_of<&MoeLayer::dropped_routes>,
          "i64 [1] on the layer's device, in its memory: choices of this rank's tokens that "
          "were dropped since the layer was made, because the expert's rank is left out. "
          "Read or clear it in the order of the forwards' streams. None without "
          "LayerOptions.lost_rank_timeout.",
          nb::for_getter(nb::sig("def dropped_routes(self, /) -> Tensor | None")))
      .def_prop_ro("expert_loads", &counters_of<&MoeLayer::expert_loads>,
                   "i64 [E] on the layer's device, in its memory: how often each expert was "
                   "chosen by tokens that this rank routes, since the layer was made. Forwards "
                   "add to it in the order of their streams; read or clear it in that order. It "
                   "stays where it is when the layer grows. None without "
                   "LayerOptions.count_loads.",
                   nb::for_getter(nb::sig("def expert_loads(self, /) -> Tensor | None")))
      .def_prop_ro("input_rows", &input_rows_of,
                   "Where hidden states are best written: bf16 [max_tokens, H] on the layer's "
                   "device, a view of its workspace. A forward whose `hidden` is its first T rows "
                   "copies none of them; other memory is read as well, but for such that overlaps "
                   "this and begins elsewhere (ShapeMismatch). forward does not change the rows; "
                   "they may be written again, in the order of its stream, once it is done. Take "
                   "it again after grow: the old view keeps its memory, which is then like any "
                   "other. None where no place is better than another: on CPUs, on one rank, and "
                   "where ranks do not fetch rows from each other's memory "
                   "(LayerOptions.fetch_rows). Ranks need not agree.",
                   nb::for_getter(nb::sig("def input_rows(self, /) -> Tensor | None")))
      .def_prop_ro("config", [](const HostLayer& l) { return l.peek().config(); })
      .def_prop_ro("strategy", [](const HostLayer& l) { return l.peek().strategy(); })
      .def_prop_ro("device", [](const HostLayer& l) { return describe(l.device()); })
      .def_prop_ro("workspace_bytes", [](const HostLayer& l) { return l.peek().workspace_bytes(); })
      .def_prop_ro("state_bytes", [](const HostLayer& l) { return l.peek().state_bytes(); })
      .def_prop_ro(
          "report",
          [](const HostLayer& l) -> std::optional<std::string> {
            return l.report() ? std::optional(describe(*l.report())) : std::nullopt;
          },
          "The layout of the last forward and its reason; None before it.");
  m.def("workspace_bytes", &bytes_of_workspace, "config"_a, "num_ranks"_a = 1, "options"_a,
        "Bytes of the workspace of a layer on one of num_ranks ranks, for callers who lend it. "
        "Options are those of LayerOptions; with a backend, of its device. Grows with max_tokens. "
        "Raises as MoeLayer.");
  m.def("gate", &gate_function, "config"_a, "weights"_a, "hidden"_a, nb::kw_only(),
        "token_ids"_a = nb::none(), "stream"_a = nb::none(),
        "The gate of a layer alone: ids i32 [T, K] by descending score, weights f32 [T, K], and "
        "shared_weights f32 [T, S] where shared experts are scored, for hidden bf16 [T, H]. It "
        "makes a "
        "backend; MoeLayer.gate uses the layer's. Raises ShapeMismatch or Unsupported.");
}

}  // namespace switchyard::python
