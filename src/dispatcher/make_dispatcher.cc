// src/dispatcher/make_dispatcher.cc
#include "comm/device_link.h"
#include "comm/handshake.h"
#include "dispatcher/parts.h"
#include "strategy/conditions.h"

namespace switchyard {
namespace {

DispatcherParts over_nccl(const MoeConfig& config, const DispatcherOptions& options,
                          Communicator& communicator, const std::shared_ptr<Backend>& backend,
                          RowCarrier carrier) {
  const auto sizes = carrier == RowCarrier::NcclExact ? RowSizes::Exact : RowSizes::Blocks;
  auto ranks = std::make_shared<DeviceRanks>(communicator, backend, sizes,
                                             make_nccl_link(communicator, backend));
  return {config, options, *ranks, backend, carrier, ranks};
}

// Over the communicator of the parts.
std::unique_ptr<Dispatcher> make(DispatcherParts parts) {
  switch (parts.options.kind) {
    case DispatcherKind::Local: return make_local_dispatcher(std::move(parts));
    case DispatcherKind::AllGather: return make_all_gather_dispatcher(std::move(parts));
    case DispatcherKind::Normal:
    case DispatcherKind::LowLatency: break;  // LowLatency was refused before
  }
  return make_normal_dispatcher(std::move(parts));
}

}  // namespace

std::unique_ptr<Dispatcher> make_dispatcher(const MoeConfig& config,
                                            const DispatcherOptions& options,
                                            Communicator& communicator,
                                            std::shared_ptr<Backend> backend) {
  validate(config);
  StrategyRequest request;
  request.config = config;
  request.num_ranks = communicator.size();
  request.tp_size = options.tp_size;
  request.transport = communicator.transport();
  request.device = describe_device(backend->kind());
  request.host_counts = options.host_counts;
  request.fetch_rows = options.fetch_rows;
  request.has_nccl = has_nccl();
  if (backend->kind() == DeviceKind::Cuda)
    request.peer_memory = options.peer_memory.value_or(true) && are_on_one_host(communicator);
  require_all("make_dispatcher", dispatcher_conditions(options.kind, request));

  const RowCarrier carrier = row_carrier(options.kind, request);
  if (is_nccl(carrier)) return make(over_nccl(config, options, communicator, backend, carrier));
  DispatcherParts parts{config, options, communicator, std::move(backend)};
  if (is_peer(carrier) || (options.peer_memory.value_or(false) && communicator.size() > 1))
    return make_peer_dispatcher(std::move(parts));
  return make(std::move(parts));
}

}  // namespace switchyard
