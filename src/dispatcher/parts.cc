// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/dispatcher/parts.cc
#include "dispatcher/parts.h"

#include <algorithm>

#include "base/enumerator.h"
#include "base/require.h"
#include "comm/device_transport.h"
#include "comm/handshake.h"
#include "strategy/conditions.h"
#include "strategy/names.h"

namespace switchyard {

Dispatcher::Slice slice_of(int64_t num_tokens, int tp_rank, int tp_size) {
  const int64_t chunk = slice_capacity(num_tokens, tp_size);
  const int64_t begin = std::min(chunk * tp_rank, num_tokens);
  return {begin, std::min(chunk, num_tokens - begin)};
}

Dispatcher::Slice DispatcherParts::slice(int64_t num_tokens) const {
  if (options.kind == DispatcherKind::Local) return {0, num_tokens};
  return slice_of(num_tokens, rank() % options.tp_size, options.tp_size);
}

int64_t DispatcherParts::max_rows(int64_t max_tokens) const {
  return received_rows(options.kind, max_tokens, num_ranks(), options.tp_size);
}

ConstRowParts DispatcherParts::travelling(const RowParts& room, ConstTensor hidden,
                                          CUstream_st* stream) const {
  if (options.rows == DType::Bf16) return hidden;
  const RowParts rows = room.rows(0, hidden.dim(0));
  ops().run(QuantizeRows{.dst = rows[0], .scales = rows[1], .src = hidden, .num_rows = {}}, stream);
  return rows;
}

void DispatcherParts::check(ConstTensor hidden, ConstTensor ids, ConstTensor weights,
                            int64_t max_tokens, Dispatcher::Slice slice) const {
  SWITCHYARD_REQUIRE(hidden.shape.rank() == 2 && hidden.dim(0) >= 0 &&
                         hidden.dim(1) == config.hidden && hidden.dtype == DType::Bf16,
                     ShapeMismatch, "dispatch: hidden is not bf16 [T, ", config.hidden, "].");
  SWITCHYARD_REQUIRE(hidden.dim(0) <= max_tokens, ShapeMismatch, "dispatch: tokens=", hidden.dim(0),
                     ", at most max_tokens=", max_tokens, ". Raise max_tokens on every rank.");
  const Shape slots{slice.size, config.top_k};
  SWITCHYARD_REQUIRE(ids.shape == slots && ids.dtype == DType::I32, ShapeMismatch,
                     "dispatch: ids is not i32 [", slice.size, ", ", config.top_k, "].");
  SWITCHYARD_REQUIRE(weights.shape == slots && weights.dtype == DType::F32, ShapeMismatch,
                     "dispatch: weights is not f32 [", slice.size, ", ", config.top_k, "].");
}

namespace {

std::shared_ptr<RowTransport> make_transport(Communicator& communicator,
                                             const std::shared_ptr<Backend>& backend,
                                             RowCarrier carrier) {
  if (!is_nccl(carrier)) return make_host_transport(communicator);
  const auto sizes = carrier == RowCarrier::NcclExact ? RowSizes::Exact : RowSizes::Blocks;
  return std::make_shared<DeviceTransport>(communicator, backend, sizes,
                                           make_nccl_link(communicator, backend));
}

}  // namespace

std::unique_ptr<Dispatcher> make_dispatcher(const MoeConfig& config,
                                            const DispatcherOptions& options,
                                            Communicator& communicator,
                                            std::shared_ptr<Backend> backend) {
  validate(config);
  require_enumerator("make_dispatcher", "kind", options.kind, kDispatchers, "DispatcherKind");
  SWITCHYARD_REQUIRE(options.num_link_blocks >= 0, ShapeMismatch,
                     "make_dispatcher: num_link_blocks=", options.num_link_blocks,
                     ", must not be negative. Pass 0 for the default.");
  require_backend("make_dispatcher", backend);
  const bool outlives_ranks = options.lost_rank_timeout.count() > 0;
  SWITCHYARD_REQUIRE(
      !outlives_ranks || (options.active_ranks.present() && options.dropped_routes.present()),
      ShapeMismatch, "make_dispatcher: lost_rank_timeout=", options.lost_rank_timeout.count(),
      " ms, active_ranks or dropped_routes is absent. Give both, i64 [1] of the device.");
  SWITCHYARD_REQUIRE(
      !outlives_ranks || !options.host_ordered, Unsupported,
      "make_dispatcher: lost_rank_timeout with host_ordered, in which hosts wait for "
      "all ranks. Use one of them.");
  StrategyRequest request;
  request.config = config;
  request.num_ranks = communicator.size();
  request.tp_size = options.tp_size;
  request.transport = communicator.transport();
  request.device = describe_device(backend->kind());
  request.host_counts = options.host_counts;
  request.fetch_rows = options.fetch_rows;
  request.sums_at_source = options.sums_at_source;
  request.lost_rank_timeout = options.lost_rank_timeout;
  request.experts = options.rows;
  request.has_nccl = has_nccl();
  if (backend->kind() == DeviceKind::Cuda || outlives_ranks)
    request.peer_memory = options.peer_memory.value_or(true) && are_on_one_host(communicator);
  require_all("make_dispatcher", row_conditions(options.kind, request));
  require_all("make_dispatcher", dispatcher_conditions(options.kind, request));

  const RowCarrier carrier = row_carrier(options.kind, request);
  return peers_know(communicator, [&] {
    DispatcherParts parts{config, options, communicator, backend, carrier};
    const bool reaches_memory =
        is_peer(carrier) || (backend->kind() == DeviceKind::Cpu &&
                             options.peer_memory.value_or(false) && communicator.size() > 1);
    if (reaches_memory)
      return options.kind == DispatcherKind::LowLatency
                 ? make_low_latency_dispatcher(std::move(parts))
                 : make_peer_dispatcher(std::move(parts));
    parts.transport = make_transport(communicator, backend, carrier);
    return make_message_dispatcher(std::move(parts));
  });
}

}  // namespace switchyard
