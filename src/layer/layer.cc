// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/layer.cc -- strategy -> gate -> dispatcher -> executor -> dispatcher.
#include "switchyard/layer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "base/as_error.h"
#include "base/backend.h"
#include "base/enqueue_lock.h"
#include "base/overlap.h"
#include "base/peer_control.h"
#include "base/require.h"
#include "base/status.h"
#include "comm/handshake.h"
#include "device/memory.h"
#include "layer/active_ranks.h"
#include "layer/agreement.h"
#include "layer/layer_buffers.h"
#include "layer/layer_plan.h"
#include "layer/routed_path.h"
#include "layer/shared_expert.h"
#include "layer/slot_table.h"
#include "ops/ops.h"
#include "switchyard/executor.h"

namespace switchyard {
namespace {

struct LayerBytes {
  size_t state, workspace;
};

LayerBytes bytes_of(const LayerPlan& plan) {
  Arena state({}), workspace({});
  LayerBuffers().cut(state, workspace, plan);
  return {state.bytes(), workspace.bytes()};
}

void check_workspace(const char* operation, const Workspace& workspace, size_t bytes) {
  SWITCHYARD_REQUIRE(workspace.bytes >= bytes, ShapeMismatch, operation,
                     ": workspace bytes=", workspace.bytes, ", need ", bytes,
                     ". Ask MoeLayer::workspace_bytes.");
  require_aligned(operation, workspace);
}

std::shared_ptr<Backend> make_backend(const LayerOptions& options, int num_ranks) {
  if (options.backend) return options.backend;
  if (options.device == DeviceKind::Cuda) return make_cuda_backend({.num_sms = options.num_sms});
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return make_cpu_backend(options.num_threads > 0 ? options.num_threads
                                                  : std::max(1, cores / num_ranks));
}

void check_device(const char* name, ConstTensor t, DeviceKind device) {
  SWITCHYARD_REQUIRE(t.device == device, ShapeMismatch, "forward: ", name, " is on ",
                     device_name(t.device), ", the layer runs on ", device_name(device),
                     ". Copy it first.");
}

// Rows of 64 MiB; no product of a stride and a number of rows overflows.
constexpr int64_t kMaxRowStride = int64_t{1} << 25;

// Rows that begin `stride` elements apart, as one tensor that spans them.
ConstTensor span_of(ConstTensor t, int64_t stride) {
  const int64_t num_rows = t.dim(0);
  if (stride == 0 || num_rows == 0) return t;
  t.shape = {(num_rows - 1) * stride + t.dim(1)};
  return t;
}

void check_stride(const char* name, int64_t stride, const LayerPlan& plan) {
  if (stride == 0 || stride == plan.config.hidden) return;
  SWITCHYARD_REQUIRE(plan.strided_rows, Unsupported, "forward: ", name, "=", stride,
                     ", rows of this layer have no gaps. Set LayerOptions::strided_rows.");
  SWITCHYARD_REQUIRE(stride > plan.config.hidden && stride <= kMaxRowStride, ShapeMismatch,
                     "forward: ", name, "=", stride, ", need 0 or ", plan.config.hidden, " to ",
                     kMaxRowStride, ". Pass elements from one row to the next.");
}

void check_aligned(const char* name, ConstTensor t) {
  const int64_t bytes = dtype_bytes(t.dtype);
  SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(t.data) % bytes == 0, Misaligned,
                     "forward: ", name, " address is not a multiple of ", bytes, ", the bytes of ",
                     dtype_name(t.dtype), ". Align it.");
}

void check_expert_map(ConstTensor map, int64_t num_choices, DeviceKind device) {
  SWITCHYARD_REQUIRE(map.shape.rank() == 1 && map.dim(0) >= num_choices && map.dtype == DType::I32,
                     ShapeMismatch, "forward: expert_map is not i32 [M], M >= ", num_choices,
                     ". Pass the layer's id of each of the caller's.");
  check_device("expert_map", map, device);
  check_aligned("expert_map", map);
  SWITCHYARD_REQUIRE(map.data != nullptr, ShapeMismatch, "forward: expert_map is null, need ",
                     map.dim(0), " ids.");
}

// Kernels copy rows as 16-byte vectors.
void check_rows(const char* name, ConstTensor t, DType dtype, Shape shape, DeviceKind device) {
  const int64_t num_tokens = shape[0];
  SWITCHYARD_REQUIRE(t.shape == shape && t.dtype == dtype, ShapeMismatch, "forward: ", name,
                     " is not ", dtype_name(dtype), " [", num_tokens, ", ", shape[1],
                     "]. Pass rows of the layer's hidden size.");
  check_device(name, t, device);
  SWITCHYARD_REQUIRE(num_tokens == 0 || t.data != nullptr, ShapeMismatch, "forward: ", name,
                     " is null, need memory for ", num_tokens, " rows.");
  SWITCHYARD_REQUIRE(
      reinterpret_cast<uintptr_t>(t.data) % 16 == 0, Misaligned, "forward: ", name,
      " address is not a multiple of 16 (rows are copied as 16-byte vectors). Align it.");
}

class Layer final : public MoeLayer {
 public:
  struct Parts {
    LayerPlan plan;
    LayerOptions options{};  // as they were given
    LayerWeights weights{};  // arranged
    std::shared_ptr<Backend> backend{};
    std::shared_ptr<void> state{};
    std::shared_ptr<void> counters{};  // i64 [plan.num_counters()]; they stay when the layer grows
    OwnedWorkspace workspace{};        // absent: every call brings one
    bool poisons_workspace = false;
    std::unique_ptr<Gate> gate{};  // null without router weights
    std::unique_ptr<Executor> executor{};
    std::unique_ptr<Communicator> own_communicator{};  // of a layer that was made without one
    Communicator* communicator = nullptr;
  };

  // Collective: the dispatcher may split the communicator.
  explicit Layer(Parts parts) : parts_(std::move(parts)) {
    bytes_ = bytes_of(plan());
    cut_workspace(parts_.workspace.workspace);
    if (config().shared.intermediate > 0)
      shared_.emplace(config(), parts_.weights.shared, parts_.backend, plan().strategy.provider);
    if (config().path.present())
      path_.emplace(config(), parts_.weights.path, parts_.backend, plan().strategy.provider);
    DispatcherOptions dispatcher = plan().dispatcher();
    dispatcher.placement = buffers_.slots.active;
    dispatcher.active_ranks = buffers_.active_ranks;
    dispatcher.dropped_routes = buffers_.dropped_routes;
    dispatcher_ =
        make_dispatcher(plan().request.config, dispatcher, communicator(), parts_.backend);
    if (plan().strategy.token_pieces > 1)
      pipeline_.emplace(backend().memory(), plan().strategy.token_pieces);
    clear_status(nullptr);
    if (plan().outlives_ranks()) write_active_ranks(first_ranks(plan().request.num_ranks), nullptr);
    if (!plan().placement.empty()) write_placement(plan().placement, nullptr);
    wait(nullptr);  // a first forward may come on a stream that does not wait for the default one
    // Last: a rank that is past it may make the others wait on the device.
    for (const Workspace& window : buffers_.dispatcher)
      dispatcher_->connect(window, cut(plan().request.max_tokens).tokens, parts_.state);
  }

  const MoeConfig& config() const override { return plan().config; }
  const Strategy& strategy() const override { return plan().strategy; }
  size_t workspace_bytes() const override { return bytes_.workspace; }
  size_t state_bytes() const override {
    return bytes_.state + static_cast<size_t>(plan().num_counters()) * sizeof(int64_t);
  }

  Gate& gate() override {
    SWITCHYARD_REQUIRE(parts_.gate, Unsupported,
                       "gate: the layer has no router weights. Pass ids and weights to forward.");
    return *parts_.gate;
  }

  Tensor input_rows() const override {
    if (plan().strategy.token_pieces > 1) return {};  // each has a workspace of its own
    if (path_) return {};                             // other rows travel
    return dispatcher_->input_rows(buffers_.dispatcher.front());
  }
  std::shared_ptr<void> workspace_memory() const override { return parts_.workspace.memory; }

  ForwardReport forward(const ForwardArgs& args) override {
    return as_errors("forward", [&] { return forward_in_turn(args); });
  }

  void refuse_forward(int64_t max_tokens, CUstream_st* stream) override {
    if (communicator().size() == 1) return;
    as_errors("forward", [&] {
      const BackendTurn turn(backend(), "forward");
      throw_what_is_visible();
      dispatcher_->check_stream(stream);
      const EnqueueLock lock(dispatcher_->serializes_enqueue());
      take_part_without_rows(Errc::ShapeMismatch, bound_of(max_tokens), stream);
    });
  }

  void wait(CUstream_st* stream) override {
    as_errors("wait", [&] {
      StatusWords status;
      dispatcher_->before_wait(stream);
      backend().memory().read_back(&status, buffers_.status, stream);
      throw_status(status, stream);
    });
  }

  void set_placement(std::span<const int32_t> expert_of_slot, CUstream_st* stream) override {
    as_errors("set_placement", [&] {
      const BackendTurn turn(backend(), "set_placement");
      check_table(expert_of_slot);
      const EnqueueLock lock(dispatcher_->serializes_enqueue());
      write_placement(expert_of_slot, stream);
      parts_.plan.placement.assign(expert_of_slot.begin(), expert_of_slot.end());
    });
  }

  void set_active_ranks(std::span<const int32_t> ranks, CUstream_st* stream) override {
    as_errors("set_active_ranks", [&] {
      const BackendTurn turn(backend(), "set_active_ranks");
      SWITCHYARD_REQUIRE(plan().outlives_ranks(), Unsupported,
                         "set_active_ranks: the layer has no lost_rank_timeout, each of its calls "
                         "has all ranks. Create it with one.");
      const uint64_t active =
          remaining_ranks(ranks, active_ranks_, communicator().rank(), communicator().size());
      const EnqueueLock lock(dispatcher_->serializes_enqueue());
      write_active_ranks(active, stream);
      if (!plan().placement.empty()) write_placement(plan().placement, stream);
    });
  }

  std::vector<int32_t> missing_ranks(CUstream_st* stream) override {
    return as_errors("missing_ranks", [&] {
      std::vector<int32_t> ranks;
      if (!plan().outlives_ranks()) return ranks;
      uint64_t missing = 0;
      backend().memory().read_back(&missing,
                                   dispatcher_->missing_ranks(buffers_.dispatcher.front()), stream);
      for (int r = 0; r < communicator().size(); ++r)
        if (has_rank(missing & active_ranks_, r)) ranks.push_back(r);
      return ranks;
    });
  }

  Tensor dropped_routes() const override { return buffers_.dropped_routes; }
  Tensor expert_loads() const override { return buffers_.slots.loads; }

  void grow(int64_t max_tokens, CUstream_st* stream) override {
    peers_know(communicator(), [&] { grow_together(max_tokens, stream); });
  }

 private:
  void grow_together(int64_t max_tokens, CUstream_st* stream);
  ForwardReport forward_in_turn(const ForwardArgs& args) {
    const BackendTurn turn(backend(), "forward");
    throw_what_is_visible();
    dispatcher_->check_stream(args.stream);
    const int64_t max_tokens = bound_of(args.max_tokens);
    const EnqueueLock lock(dispatcher_->serializes_enqueue());
    try {
      as_errors("forward", [&] { check(args, max_tokens); });
    } catch (const Error& e) {
      if (communicator().size() > 1) take_part_without_rows(e.code(), max_tokens, args.stream);
      throw;
    }
    prepare_workspace(args);
    run(args, max_tokens);
    const int64_t max_rows = dispatcher_->max_rows(cut(max_tokens).tokens);
    const bool hybrid = parts_.executor->kind() == ExecutorKind::Hybrid;
    return {parts_.executor->layout_for(max_rows), max_rows,
            hybrid ? plan().request.masked_max_tokens : -1};
  }

  // Of a call whose bound is given as `max_tokens`: the capacity for -1, and for what is no bound.
  int64_t bound_of(int64_t max_tokens) const {
    const int64_t capacity = plan().request.max_tokens;
    return max_tokens >= 0 && max_tokens <= capacity ? max_tokens : capacity;
  }

  const LayerPlan& plan() const { return parts_.plan; }
  Backend& backend() const { return *parts_.backend; }
  Communicator& communicator() const { return *parts_.communicator; }

  void cut_workspace(const Workspace& workspace) {
    Arena state({parts_.state.get(), bytes_.state}, backend().kind());
    Arena arena(workspace, backend().kind());
    buffers_.cut(state, arena, plan(), parts_.counters.get());
    workspace_ = workspace;
  }

  // That of the call, or the layer's own.
  const Workspace& workspace_of(const ForwardArgs& args) const {
    return args.workspace.data != nullptr ? args.workspace : parts_.workspace.workspace;
  }

  void prepare_workspace(const ForwardArgs& args) {
    const Workspace& wanted = workspace_of(args);
    if (wanted.data != workspace_.data) cut_workspace(wanted);
    if (!parts_.poisons_workspace || bytes_.workspace == 0) return;
    constexpr int32_t kNan = 0x7fc07fc0;  // two of bf16, one of f32, no index
    const auto words = static_cast<int64_t>(bytes_.workspace / sizeof(int32_t));
    const Tensor all(workspace_.data, DType::I32, {words}, backend().kind());
    backend().ops().run(FillI32{all, kNan}, args.stream);
  }

  TokenPieces cut(int64_t max_tokens) const {
    return cut_tokens(max_tokens, plan().request.max_tokens, plan().strategy.token_pieces);
  }

  void clear_status(CUstream_st* stream) {
    backend().ops().run(FillI32{buffers_.status, 0}, stream);
  }

  void write_active_ranks(uint64_t active, CUstream_st* stream) {
    const std::array words{low_half(static_cast<int64_t>(active)),
                           high_half(static_cast<int64_t>(active))};
    const Tensor dst(buffers_.active_ranks.data, DType::I32, {2}, backend().kind());
    backend().ops().run(WriteI32{dst, words.data()}, stream);
    active_ranks_ = active;
  }

  void check_table(std::span<const int32_t> expert_of_slot) const {
    const size_t num_slots = plan().placement.size();
    SWITCHYARD_REQUIRE(num_slots > 0, Unsupported,
                       "set_placement: the layer has no placement, its experts stand in their "
                       "order. Create it with LayerOptions::placement.");
    SWITCHYARD_REQUIRE(expert_of_slot.size() == num_slots, ShapeMismatch,
                       "set_placement: slots=", expert_of_slot.size(), ", the layer has ",
                       num_slots, ". Pass the expert in each of them.");
    check_placement("set_placement", expert_of_slot, config().num_experts);
  }

  // The table that no call uses, then the word that says it is in use.
  void write_placement(std::span<const int32_t> expert_of_slot, CUstream_st* stream) {
    const int next = 1 - table_in_use_;
    auto slots = std::vector(expert_of_slot.begin(), expert_of_slot.end());
    if (plan().outlives_ranks())
      drop_unreachable(slots, config().num_experts, communicator().size(), active_ranks_);
    const auto table = slot_table(slots, config().num_experts);
    backend().ops().run(WriteI32{buffers_.tables.rows(next, 1), table.data()}, stream);
    backend().ops().run(FillI32{buffers_.active, active_word(table, next)}, stream);
    table_in_use_ = next;
  }

  void set_status(Errc code, StatusDetail detail, CUstream_st* stream) {
    Ops& ops = backend().ops();
    ops.run(FillI32{buffers_.status.rows(0, 1), static_cast<int32_t>(code)}, stream);
    ops.run(FillI32{buffers_.status.rows(1, 1), static_cast<int32_t>(detail)}, stream);
    ops.run(FillI32{buffers_.status.rows(2, 1), communicator().rank()}, stream);
  }

  void throw_status(const StatusWords& status, CUstream_st* stream) {
    if (lost_) throw *lost_;  // the communicator is over: this error stays
    if (status.good()) return;
    if (status.code == static_cast<int32_t>(Errc::Transport) && !plan().outlives_ranks())
      throw_lost(status);
    clear_status(stream);
    throw Error(static_cast<Errc>(status.code), status_message(status));
  }

  // A kernel found that a peer is lost. Every rank throws the reason that was given first.
  [[noreturn]] void throw_lost(const StatusWords& status) {
    // If a host ended the wait, it knows why and tells.
    const std::chrono::milliseconds patience(status.value == kGivenUpByHost ? 1000 : 0);
    std::string known = await_reason(communicator(), patience);
    if (known.empty()) known = dispatcher_->why_lost();
    communicator().abort(known.empty() ? status_message(status) : known);
    const std::string reason = communicator().failure_reason();
    lost_.emplace(Errc::Transport, reason.empty() ? status_message(status) : reason);
    throw *lost_;
  }

  // On the CPU the work of earlier calls has run, so reading its status waits for nothing.
  void throw_what_is_visible() {
    if (backend().kind() == DeviceKind::Cpu)
      wait(nullptr);
    else if (lost_)
      throw *lost_;
  }

  void check(const ForwardArgs& args, int64_t max_tokens) const {
    SWITCHYARD_REQUIRE(args.max_tokens == -1 || args.max_tokens == max_tokens, ShapeMismatch,
                       "forward: max_tokens=", args.max_tokens, ", need 0 to the layer's capacity ",
                       plan().request.max_tokens,
                       " (or -1 for it). Create the layer with a larger max_tokens.");
    const int64_t num_tokens = args.hidden.shape.rank() == 2 ? args.hidden.dim(0) : 0;
    SWITCHYARD_REQUIRE(num_tokens >= 0, ShapeMismatch, "forward: tokens=", num_tokens,
                       ", must not be negative. Pass 0 for none.");
    const Shape rows{num_tokens, config().hidden};
    check_rows("hidden", args.hidden, DType::Bf16, rows, backend().kind());
    check_rows("output", args.output, output_dtype(config()), rows, backend().kind());
    SWITCHYARD_REQUIRE(num_tokens <= max_tokens, ShapeMismatch, "forward: tokens=", num_tokens,
                       ", at most max_tokens=", max_tokens,
                       ". Split the batch or raise max_tokens on every rank.");
    check_stride("hidden_stride", args.hidden_stride, plan());
    check_stride("output_stride", args.output_stride, plan());
    check_place("forward", args.hidden, input_rows());
    const Workspace& workspace = workspace_of(args);
    SWITCHYARD_REQUIRE(workspace.data != nullptr, ShapeMismatch,
                       "forward: workspace is missing, this layer has none. Pass ",
                       bytes_.workspace, " bytes.");
    check_workspace("forward", workspace, bytes_.workspace);
    check_routing(args, num_tokens);
    check_apart(args, workspace);
  }

  // What is written over before it was read gives wrong sums, and no sign of it.
  void check_apart(const ForwardArgs& args, const Workspace& workspace) const {
    const ConstTensor scratch(workspace.data, DType::I32,
                              {static_cast<int64_t>(bytes_.workspace / sizeof(int32_t))});
    const auto check_pair = [](const char* name, ConstTensor view, const char* other_name,
                               ConstTensor other) {
      SWITCHYARD_REQUIRE(!overlap(view, other), ShapeMismatch, "forward: ", name, " overlaps ",
                         other_name, ". Give it memory of its own.");
    };
    const ConstTensor hidden = span_of(args.hidden, args.hidden_stride);
    const ConstTensor output = span_of(args.output, args.output_stride);
    const void* const home = input_rows().data;  // where hidden may be, inside or not
    const auto check_input = [&](const char* name, ConstTensor input) {
      check_pair("output", output, name, input);
      if (input.data != home) check_pair(name, input, "the workspace", scratch);
    };
    check_input("hidden", hidden);
    check_input("ids", args.ids);
    check_input("weights", args.weights);
    check_input("token_ids", args.token_ids);
    check_input("expert_map", args.expert_map);
    check_pair("output", output, "the workspace", scratch);
  }

  void check_routing(const ForwardArgs& args, int64_t num_tokens) const {
    SWITCHYARD_REQUIRE(
        args.ids.present() == args.weights.present(), ShapeMismatch,
        "forward: ids and weights must be given together, or neither, to run the gate.");
    if (!args.ids.present()) {
      SWITCHYARD_REQUIRE(!args.expert_map.present(), ShapeMismatch,
                         "forward: expert_map is given without ids, the gate chooses the layer's "
                         "own. Leave it away.");
      SWITCHYARD_REQUIRE(
          parts_.gate, Unsupported,
          "forward: no ids, and the layer has no router weights. Pass ids and weights.");
      return check_token_ids(args, num_tokens);
    }
    SWITCHYARD_REQUIRE(!args.token_ids.present(), ShapeMismatch,
                       "forward: token_ids and ids are given, experts are chosen once. Leave one "
                       "away.");
    SWITCHYARD_REQUIRE(config().shared.num_scored == 0, Unsupported,
                       "forward: ids are given, but the gate of this layer weighs its ",
                       config().shared.num_scored, " shared experts. Leave ids and weights away.");
    const Shape slots{num_tokens, config().top_k};
    SWITCHYARD_REQUIRE(
        args.ids.shape == slots && (args.ids.dtype == DType::I32 || args.ids.dtype == DType::I64),
        ShapeMismatch, "forward: ids is not i32 or i64 [", num_tokens, ", ", config().top_k, "].");
    SWITCHYARD_REQUIRE(args.weights.shape == slots && args.weights.dtype == DType::F32,
                       ShapeMismatch, "forward: weights is not f32 [", num_tokens, ", ",
                       config().top_k, "].");
    check_device("ids", args.ids, backend().kind());
    check_device("weights", args.weights, backend().kind());
    SWITCHYARD_REQUIRE(
        num_tokens == 0 || (args.ids.data != nullptr && args.weights.data != nullptr),
        ShapeMismatch, "forward: ids or weights is null, need ", num_tokens, " rows.");
    if (args.expert_map.present())
      check_expert_map(args.expert_map, config().num_choices(), backend().kind());
    check_aligned("ids", args.ids);
    check_aligned("weights", args.weights);
  }

  void check_token_ids(const ForwardArgs& args, int64_t num_tokens) const {
    const bool by_token = config().gate.vocabulary > 0;
    const ConstTensor t = args.token_ids;
    SWITCHYARD_REQUIRE(by_token || !t.present(), ShapeMismatch,
                       "forward: token_ids are given, this layer chooses by scores. Leave them "
                       "away.");
    if (!by_token) return;
    SWITCHYARD_REQUIRE(
        t.shape == Shape{num_tokens} && (t.dtype == DType::I32 || t.dtype == DType::I64),
        ShapeMismatch, "forward: token_ids is ", t.present() ? "not" : "missing, need",
        " i32 or i64 [", num_tokens,
        "]; token ids choose the experts of this layer. Pass those of the rows of hidden.");
    check_device("token_ids", t, backend().kind());
    SWITCHYARD_REQUIRE(num_tokens == 0 || t.data != nullptr, ShapeMismatch,
                       "forward: token_ids is null, need ", num_tokens, " ids.");
    check_aligned("token_ids", t);
  }

  // Peers are in the collective already, or will be: this rank goes through it empty-handed and
  // tells them. Its own caller gets the error that names the argument.
  void take_part_without_rows(Errc code, int64_t max_tokens, CUstream_st* stream) {
    set_status(code, StatusDetail::PeerArguments, stream);
    ForwardArgs nothing;
    nothing.hidden = ConstTensor(nullptr, DType::Bf16, {0, config().hidden}, backend().kind());
    nothing.output =
        Tensor(nullptr, output_dtype(config()), {0, config().hidden}, backend().kind());
    nothing.ids = ConstTensor(nullptr, DType::I32, {0, config().top_k}, backend().kind());
    nothing.weights = ConstTensor(nullptr, DType::F32, {0, config().top_k}, backend().kind());
    nothing.stream = stream;
    run(nothing, max_tokens);
    clear_status(stream);
  }

  // Whether rows have gaps; one row has none.
  bool has_gaps(ConstTensor rows, int64_t stride) const {
    return stride != 0 && stride != config().hidden && rows.dim(0) > 1;
  }

  // The call with rows that have no gaps.
  ForwardArgs pack_rows(ForwardArgs args) {
    const int64_t num_tokens = args.hidden.dim(0), width = config().hidden;
    if (has_gaps(args.hidden, args.hidden_stride)) {
      const Tensor packed = buffers_.hidden.rows(0, num_tokens);
      backend().ops().run(CopyRows{packed, args.hidden, width, args.hidden_stride}, args.stream);
      args.hidden = packed;
    }
    if (has_gaps(args.output, args.output_stride))
      args.output = buffers_.output.rows(0, num_tokens);
    return args;
  }

  void run(const ForwardArgs& given, int64_t max_tokens) {
    ForwardArgs args = given;
    try {
      as_errors("forward", [&] {
        args = pack_rows(given);
        enqueue(args, max_tokens);
      });
    } catch (const Error& e) {
      if (e.code() != Errc::Transport) {
        communicator().abort(e.what());  // no peer may wait for a rank that left the call
        throw;
      }
      lost_.emplace(e);
      set_status(Errc::Transport, StatusDetail::PeerLost, args.stream);
      backend().ops().run(Poison{args.output, buffers_.status}, args.stream);
    }
    if (args.output.data != given.output.data)
      backend().ops().run(CopyRows{given.output, args.output, given.output_stride, config().hidden},
                          args.stream);
  }

  struct Routing {
    ConstTensor chosen;   // by the gate, or given as the layer's own; others are resolved later
    ConstTensor ids;      // what is dispatched: without zero experts
    ConstTensor weights;  // of both
  };

  // What the routed experts are called with: the caller's rows, or those of a path.
  struct RoutedCall {
    const ForwardArgs* args;  // of the caller
    Tensor output;
    ConstTensor hidden;
    Routing routing;
    bool joins;  // shared experts and zero experts join the sums
    CUstream_st* stream;
  };

  Routing route(const ForwardArgs& args, Dispatcher::Slice slice) {
    const Tensor own = buffers_.ids.rows(0, slice.size);
    if (!args.ids.present()) return {own, own, choose(args, slice, own)};
    const bool as_given = !resolves_ids(args);
    const ConstTensor given = as_given ? args.ids.rows(slice.begin, slice.size) : own;
    return {given, config().gate.num_zero_experts > 0 ? own : given,
            args.weights.rows(slice.begin, slice.size)};
  }

  // The gate's weights of the ids that it chooses.
  Tensor choose(const ForwardArgs& args, Dispatcher::Slice slice, Tensor ids) {
    Gate::Choice choice{.ids = ids, .weights = buffers_.weights.rows(0, slice.size)};
    if (config().gate.num_zero_experts == 0) choice.slots = buffers_.slots;
    if (config().shared.num_scored > 0)
      choice.shared_weights = buffers_.shared.weights.rows(0, slice.size);
    if (args.token_ids.present()) choice.token_ids = args.token_ids.rows(slice.begin, slice.size);
    parts_.gate->choose(choice, args.hidden.rows(slice.begin, slice.size), buffers_.gate,
                        args.stream);
    return choice.weights;
  }

  // Whether the caller's ids are not the layer's as they are.
  bool resolves_ids(const ForwardArgs& args) const {
    return args.ids.present() &&
           (args.ids.dtype == DType::I64 || args.expert_map.present() || plan().places_ids() ||
            plan().out_of_range_ids == OutOfRangeIds::NoExpert);
  }

  // Of rows of a routing, which are `given` of the caller's: ids become the layer's, zero experts
  // leave, and others become slots. By piece, since an id that no layer can serve is an error of one
  // piece.
  void finish_ids(const RoutedCall& call, Dispatcher::Slice rows, Dispatcher::Slice given,
                  Tensor status) {
    Ops& ops = backend().ops();
    const bool splits = config().gate.num_zero_experts > 0;
    const Tensor ids = buffers_.ids.rows(rows.begin, rows.size);
    const ConstTensor weights = call.routing.weights.rows(rows.begin, rows.size);
    if (resolves_ids(*call.args))
      ops.run(ResolveIds{ids, call.args->ids.rows(given.begin, given.size), call.args->expert_map,
                         config().num_choices(), plan().out_of_range_ids == OutOfRangeIds::NoExpert,
                         communicator().rank(), status, splits ? SlotTables{} : buffers_.slots,
                         weights},
              call.stream);
    if (splits)
      ops.run(SplitZeroExperts{ids, buffers_.path.identity.rows(rows.begin, rows.size),
                               call.routing.chosen.rows(rows.begin, rows.size), weights,
                               config().num_experts, config().num_choices(), buffers_.slots},
              call.stream);
  }

  void enqueue(const ForwardArgs& args, int64_t max_tokens) {
    const TokenPieces pieces = cut(max_tokens);
    const int64_t num_tokens = args.hidden.dim(0);
    backend().ops().begin(Phase::Gate);
    const auto slice =
        pieces.count > 1 ? Dispatcher::Slice{0, num_tokens} : dispatcher_->slice(num_tokens);
    RoutedCall call{&args, args.output, args.hidden, route(args, slice), true, args.stream};
    backend().ops().begin(Phase::Dispatch);
    if (path_) {
      call.hidden = path_->before(args.hidden, buffers_.path, args.stream);
      call.output = buffers_.path.sums.rows(0, num_tokens);
      call.joins = false;
    }
    run_routed(call, pieces, slice);
    if (path_) {
      const Addend shared = run_shared(args, {0, num_tokens});
      path_->after(args.output, shared, buffers_.path, args.stream);
    }
    if (path_ || !dispatcher_->combine_poisons())
      backend().ops().run(Poison{args.output, buffers_.status}, args.stream);
  }

  Addend addend_of(const RoutedCall& call, Dispatcher::Slice slice) {
    if (!call.joins) return {};
    if (config().gate.num_zero_experts == 0) return run_shared(*call.args, slice);
    const Tensor hidden = buffers_.path.hidden.rows(0, slice.size);
    backend().ops().run(Widen{hidden, call.args->hidden.rows(slice.begin, slice.size)},
                        call.stream);
    return {hidden, buffers_.path.identity.rows(0, slice.size)};
  }

  Addend run_shared(const ForwardArgs& args, Dispatcher::Slice slice) {
    if (!shared_) return {};
    return shared_->run(args.hidden.rows(slice.begin, slice.size), buffers_.shared, args.stream);
  }

  // The partial rows of what was received. What computes piece i + 2 has waited for its dispatch,
  // which the combine of piece i comes before.
  PartialRows run_experts(const DispatchedCall& call, size_t piece, int64_t max_rows, Tensor status,
                          CUstream_st* stream) {
    const SlotSums sums =
        parts_.executor->execute(call.received, max_rows, buffers_.executor, status, stream);
    Tensor room = buffers_.partial;
    if (room.present()) room = room.rows(static_cast<int64_t>(piece % 2) * max_rows, max_rows);
    return dispatcher_->sum_experts(sums, call, room, stream);
  }

  // A piece of a call, or the whole.
  struct Piece {
    RowRange tokens;
    RowRange given;  // of the caller's ids: where tensor-parallel groups share tokens, a slice
    RowRange ids;    // of this rank's
    Tensor status;
  };

  Piece piece_of(const TokenPieces& pieces, int64_t num_tokens, Dispatcher::Slice slice, size_t i) {
    if (pieces.count == 1) return {{0, num_tokens}, slice, {0, slice.size}, buffers_.status};
    const int64_t begin = std::min(static_cast<int64_t>(i) * pieces.tokens, num_tokens);
    const RowRange tokens{begin, std::min(pieces.tokens, num_tokens - begin)};
    Tensor status = buffers_.piece_status.rows(static_cast<int64_t>(i), 1);
    status.shape = {kStatusWords};
    return {tokens, tokens, tokens, status};
  }

  // A call in pieces: rows travel on a stream of their own. While the experts compute one piece
  // there, the next one is dispatched and the one before it comes back.
  void run_routed(const RoutedCall& routed, const TokenPieces& pieces, Dispatcher::Slice slice) {
    Ops& ops = backend().ops();
    const bool overlaps = pieces.count > 1;
    const int64_t num_tokens = routed.hidden.dim(0),
                  max_rows = dispatcher_->max_rows(pieces.tokens);
    const auto count = static_cast<size_t>(pieces.count);
    CUstream_st* link = overlaps ? pipeline_->link.get() : routed.stream;
    const auto piece = [&](size_t i) { return piece_of(pieces, num_tokens, slice, i); };
    const auto then = [](StreamEvent& event, CUstream_st* first, CUstream_st* second) {
      event.record(first);
      event.wait(second);
    };

    for (size_t i = 0; i < count; ++i) {
      const Piece p = piece(i);
      if (overlaps) ops.run(Copy{p.status, buffers_.status}, routed.stream);
      finish_ids(routed, p.ids, p.given, p.status);
    }
    if (overlaps) then(*pipeline_->joined, routed.stream, link);
    std::array<DispatchedCall, 2> calls;  // that at hand, and the next
    const auto dispatch = [&](size_t i) {
      const Piece p = piece(i);
      ops.begin(Phase::Dispatch);
      calls[i % 2] = dispatcher_->dispatch(
          buffers_.dispatcher[i], routed.hidden.rows(p.tokens.begin, p.tokens.size),
          routed.routing.ids.rows(p.ids.begin, p.ids.size),
          routed.routing.weights.rows(p.ids.begin, p.ids.size), pieces.tokens, p.status, link);
      if (overlaps) pipeline_->dispatched[i]->record(link);
    };
    dispatch(0);
    const Addend addend = addend_of(routed, slice);
    for (size_t i = 0; i < count; ++i) {
      if (i + 1 < count) dispatch(i + 1);
      if (overlaps) pipeline_->dispatched[i]->wait(routed.stream);
      ops.begin(Phase::Experts);
      const Piece p = piece(i);
      const DispatchedCall& call = calls[i % 2];
      const PartialRows partial = run_experts(call, i, max_rows, p.status, routed.stream);
      if (overlaps) then(*pipeline_->computed, routed.stream, link);
      ops.begin(Phase::Combine);
      dispatcher_->combine(routed.output.rows(p.tokens.begin, p.tokens.size), partial, call,
                           rows_of(addend, p.ids.begin, p.ids.size), p.status, link);
    }
    if (!overlaps) return;
    then(*pipeline_->joined, link, routed.stream);
    ops.run(MergeStatus{buffers_.status, buffers_.piece_status.rows(0, pieces.count)},
            routed.stream);
  }

  static Addend rows_of(const Addend& addend, int64_t begin, int64_t size) {
    if (!addend.rows.present()) return addend;
    return {addend.rows.rows(begin, size),
            addend.scale.present() ? addend.scale.rows(begin, size) : ConstTensor{}};
  }

  // What calls in pieces need beside their stream.
  struct Pipeline {
    Pipeline(Memory& memory, int num_pieces)
        : link(memory.make_stream(true)),
          joined(memory.make_event()),
          computed(memory.make_event()) {
      for (int i = 0; i < num_pieces; ++i) dispatched.push_back(memory.make_event());
    }
    std::shared_ptr<CUstream_st> link;
    std::unique_ptr<StreamEvent> joined;    // of both streams
    std::unique_ptr<StreamEvent> computed;  // the piece at hand
    std::vector<std::unique_ptr<StreamEvent>> dispatched;
  };

  Parts parts_;
  LayerBuffers buffers_;
  LayerBytes bytes_{};
  Workspace workspace_;  // that buffers_ are of
  std::optional<SharedExpert> shared_;
  std::optional<RoutedPath> path_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::optional<Pipeline> pipeline_;
  int table_in_use_ = 0;       // of buffers_.slots
  uint64_t active_ranks_ = 0;  // a bit each, if calls can go on without ranks
  std::optional<Error> lost_;  // a peer is gone
};

OwnedWorkspace make_workspace(const LayerOptions& options, size_t bytes, Backend& backend) {
  if (options.workspace_per_call) return {};
  if (options.shared_workspace) return options.shared_workspace->reserve(bytes);
  if (options.workspace.data != nullptr) {
    check_workspace("create", options.workspace, bytes);
    return {options.workspace, nullptr};
  }
  auto memory = backend.memory().allocate(bytes);
  return {{memory.get(), bytes}, memory};
}

void check_sources(const LayerOptions& options, int num_ranks) {
  const int sources = (options.workspace.data != nullptr) + (options.shared_workspace != nullptr) +
                      options.workspace_per_call;
  SWITCHYARD_REQUIRE(sources <= 1, ShapeMismatch,
                     "create: workspace, shared_workspace, workspace_per_call: given=", sources,
                     ", at most one says where the workspace comes from. Leave the others away.");
  SWITCHYARD_REQUIRE(!options.workspace_per_call || num_ranks == 1, Unsupported,
                     "create: workspace_per_call=true, ranks=", num_ranks,
                     ", a rank takes part even in a call whose arguments are wrong. Pass a "
                     "workspace or a shared_workspace.");
}

std::shared_ptr<void> zero_counters(const LayerPlan& plan, Backend& backend) {
  const int64_t words = 2 * plan.num_counters();
  if (words == 0) return nullptr;
  auto memory = backend.memory().allocate(static_cast<size_t>(words) * sizeof(int32_t));
  backend.ops().run(FillI32{{memory.get(), DType::I32, {words}, backend.kind()}, 0}, nullptr);
  return memory;
}

// What this rank can check and make alone.
void make_local_parts(Layer::Parts& parts, int rank) {
  const LayerOptions& options = parts.options;
  LayerPlan& plan = parts.plan;
  const MoeConfig& config = plan.config;
  check_options(options);
  if (!parts.backend) parts.backend = make_backend(options, plan.request.num_ranks);
  SWITCHYARD_REQUIRE(parts.backend->kind() == options.device, ShapeMismatch,
                     "create: backend is on ", device_name(parts.backend->kind()),
                     ", device=", device_name(options.device),
                     ". Pass a backend of the layer's device.");
  check_sources(options, plan.request.num_ranks);
  validate(config);
  check_slots(plan);
  plan.request.experts = format_of(parts.weights.experts).dtype;
  plan.strategy = choose_strategy(plan.request);
  check_slots(plan, parts.weights.experts);
  parts.weights = arrange_weights(parts.weights, config, plan.request.num_ranks, *parts.backend);
  const LayerBytes bytes = bytes_of(plan);
  parts.state = parts.backend->memory().allocate(bytes.state);
  parts.workspace = make_workspace(options, bytes.workspace, *parts.backend);
  if (!parts.counters) parts.counters = zero_counters(plan, *parts.backend);
  parts.poisons_workspace = options.poison_workspace;
  if (parts.weights.router.weight.present())
    parts.gate = make_gate(config, parts.weights.router, parts.backend, plan.strategy.provider);
  parts.executor = make_executor(plan.request.config, plan.executor(), parts.weights.experts,
                                 plan.request.num_ranks, rank, parts.backend);
}

// Collective: an error of one rank is thrown on all.
void make_parts(Layer::Parts& parts) {
  std::optional<Error> mine;
  try {
    as_errors("create", [&] { make_local_parts(parts, parts.communicator->rank()); });
  } catch (const Error& e) {
    mine.emplace(e);
  }
  agree_or_throw(mine, parts.plan, *parts.communicator);
}

void Layer::grow_together(int64_t max_tokens, CUstream_st* stream) {
  wait(stream);
  SWITCHYARD_REQUIRE(
      !plan().outlives_ranks() || active_ranks_ == first_ranks(plan().request.num_ranks),
      Unsupported, "grow: calls go on with ", std::popcount(active_ranks_), " of ",
      plan().request.num_ranks,
      " ranks, growing needs all of them. Make a new layer of those that are there.");
  Parts larger{.plan = plan(), .options = parts_.options, .weights = parts_.weights};
  larger.counters = parts_.counters;
  larger.plan.request.max_tokens = std::max(max_tokens, plan().request.max_tokens);
  larger.backend = parts_.backend;
  larger.communicator = parts_.communicator;
  make_parts(larger);
  Layer grown(std::move(larger));
  grown.parts_.own_communicator = std::move(parts_.own_communicator);
  *this = std::move(grown);
}

std::unique_ptr<MoeLayer> create_layer(const MoeConfig& config, const LayerWeights& weights,
                                       std::unique_ptr<Communicator> own,
                                       Communicator& communicator, const LayerOptions& options) {
  Layer::Parts parts{.plan = {config, communicator.size(), options}, .options = options};
  parts.plan.request.transport = communicator.transport();
  parts.plan.request.peer_memory &= are_on_one_host(communicator);
  parts.weights = weights;
  parts.own_communicator = std::move(own);
  parts.communicator = &communicator;
  make_parts(parts);
  return std::make_unique<Layer>(std::move(parts));
}

}  // namespace

std::unique_ptr<MoeLayer> MoeLayer::create(const MoeConfig& config, const LayerWeights& weights,
                                           Communicator& communicator,
                                           const LayerOptions& options) {
  return as_errors(
      "create", [&] { return create_layer(config, weights, nullptr, communicator, options); },
      [&](const char* why) { communicator.abort(why); });
}

std::unique_ptr<MoeLayer> MoeLayer::create(const MoeConfig& config, const LayerWeights& weights,
                                           const LayerOptions& options) {
  auto own = std::move(make_local_ranks(1).front());
  return as_errors("create", [&] {
    Communicator& communicator = *own;
    return create_layer(config, weights, std::move(own), communicator, options);
  });
}

void MoeLayer::refuse_create(Communicator& communicator) {
  if (communicator.size() == 1) return;
  as_errors(
      "create",
      [&] {
        are_on_one_host(communicator);  // the collective steps of create_layer
        try {
          agree_or_throw(Error(Errc::ShapeMismatch, "create: refused"),
                         LayerPlan({}, communicator.size(), {}), communicator);
        } catch (const Error& e) {
          if (e.code() == Errc::Transport) throw;
        }
      },
      [&](const char* why) { communicator.abort(why); });
}

size_t MoeLayer::workspace_bytes(const MoeConfig& config, int num_ranks,
                                 const LayerOptions& options) {
  return as_errors("workspace_bytes", [&] {
    check_options(options);
    validate(config);
    LayerPlan plan(config, num_ranks, options);
    check_slots(plan);
    plan.strategy = choose_strategy(plan.request);
    return bytes_of(plan).workspace;
  });
}

std::string describe(const ForwardReport& report) {
  const char* name = layout_name(report.layout);
  if (report.masked_max_tokens < 0)
    return cat(name, ": the strategy's layout, at most ", report.max_rows, " rows");
  const bool masked = report.layout == Layout::Masked;
  return cat(name, ": at most ", report.max_rows, " rows, ", masked ? "within" : "above",
             " the threshold of ", report.masked_max_tokens);
}

}  // namespace switchyard
