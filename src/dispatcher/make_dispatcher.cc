// src/dispatcher/make_dispatcher.cc
#include "dispatcher/parts.h"
#include "strategy/conditions.h"

namespace switchyard {

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
  require_all("make_dispatcher", dispatcher_conditions(options.kind, request));

  const bool peers = uses_peer_memory(backend->kind(), communicator.size()) ||
                     (options.peer_memory && communicator.size() > 1);
  DispatcherParts parts{config, options, communicator, std::move(backend)};
  if (peers) return make_peer_dispatcher(std::move(parts));
  switch (options.kind) {
    case DispatcherKind::Local: return make_local_dispatcher(std::move(parts));
    case DispatcherKind::AllGather: return make_all_gather_dispatcher(std::move(parts));
    case DispatcherKind::Normal:
    case DispatcherKind::LowLatency: break;  // LowLatency was refused above
  }
  return make_normal_dispatcher(std::move(parts));
}

}  // namespace switchyard
