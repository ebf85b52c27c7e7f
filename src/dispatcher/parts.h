// src/dispatcher/parts.h -- what every dispatcher is made of, and what two of them share.
#pragma once

#include <memory>

#include "base/backend.h"
#include "dispatcher/exchange.h"
#include "plan/buffers.h"
#include "switchyard/dispatcher.h"

namespace switchyard {

struct DispatcherParts {
  MoeConfig config;
  DispatcherOptions options;
  Communicator& communicator;  // *device_ranks where there are any
  std::shared_ptr<Backend> backend;
  RowCarrier carrier = RowCarrier::Communicator;
  std::shared_ptr<DeviceRanks> device_ranks{};  // NCCL

  int num_ranks() const { return communicator.size(); }
  int rank() const { return communicator.rank(); }
  int64_t num_local_experts() const { return experts_of_rank(config.num_experts, num_ranks()); }
  int64_t first_expert() const { return rank() * num_local_experts(); }
  Ops& ops() const { return backend->ops(); }

  // All tokens, or this rank's share when consecutive tp_size ranks hold the same ones.
  Dispatcher::Slice slice(int64_t num_tokens) const;
  int64_t max_rows(int64_t max_tokens) const;
  size_t workspace_bytes(int64_t max_tokens) const;
  DispatchBuffers take_buffers(Workspace workspace, int64_t max_tokens) const;
  Exchange exchange(const DispatchBuffers& buffers, Tensor status, CUstream_st* stream) const {
    return {ops(), communicator, device_ranks.get(), buffers, status, stream};
  }
  // Refuses what breaks the contract of dispatch, before anything moves.
  void check(ConstTensor hidden, ConstTensor ids, ConstTensor weights, int64_t max_tokens,
             Dispatcher::Slice slice) const;
  // Global ids of the received rows -> dst. num_rows absent: all rows of `src`.
  void localize(Tensor dst, ConstTensor src, ConstTensor num_rows, Tensor status,
                CUstream_st* stream) const;
};

// What the dispatchers over a communicator have in common.
class CommunicatorDispatcher : public Dispatcher {
 public:
  explicit CommunicatorDispatcher(DispatcherParts parts) : parts_(std::move(parts)) {}

  int64_t max_rows(int64_t max_tokens) const override { return parts_.max_rows(max_tokens); }
  size_t workspace_bytes(int64_t max_tokens) const override {
    return parts_.workspace_bytes(max_tokens);
  }
  Slice slice(int64_t num_tokens) const override { return parts_.slice(num_tokens); }
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                          CUstream_st* stream) override {
    if (sums.rows.present()) parts_.ops().run(gather_rows(room, sums, call.received), stream);
    return {room, sums};
  }
  void check_stream(CUstream_st* stream) const override {
    if (parts_.device_ranks) parts_.device_ranks->check_stream(stream);
  }
  void before_wait(CUstream_st* stream) override {
    if (parts_.device_ranks) parts_.device_ranks->expect(stream);
  }
  std::string why_lost() override {
    return parts_.device_ranks ? parts_.device_ranks->find_missing_ranks() : "";
  }

 protected:
  DispatcherParts parts_;
};

// A slice's output rows -> all T rows on every rank of the tensor-parallel group.
class SliceGather {
 public:
  // Collective when tp_size > 1.
  explicit SliceGather(const DispatcherParts& parts);

  // Where this rank writes its slice's rows: dst itself when there is nothing to gather.
  Tensor target(Tensor dst, const DispatchBuffers& buffers, Dispatcher::Slice slice) const;
  // Fills dst from every rank's target.
  void gather(Tensor dst, const DispatchBuffers& buffers, Ops& ops, CUstream_st* stream) const;

 private:
  std::unique_ptr<Communicator> group_;  // null when tp_size == 1
};

std::unique_ptr<Dispatcher> make_local_dispatcher(DispatcherParts parts);
std::unique_ptr<Dispatcher> make_normal_dispatcher(DispatcherParts parts);
std::unique_ptr<Dispatcher> make_all_gather_dispatcher(DispatcherParts parts);
// Any of them, where ranks reach into each other's memory.
std::unique_ptr<Dispatcher> make_peer_dispatcher(DispatcherParts parts);

}  // namespace switchyard
