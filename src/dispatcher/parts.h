// src/dispatcher/parts.h -- what every dispatcher is made of, and what two of them share.
#pragma once

#include <memory>

#include "base/backend.h"
#include "comm/device_ranks.h"
#include "ops/ops.h"
#include "plan/buffers.h"
#include "switchyard/communicator.h"
#include "switchyard/dispatcher.h"

namespace switchyard {

// The header every dispatch begins with, and the status every combine begins with: what makes errors
// reach every rank or none.
// One rank's side of the exchanges of one call.
struct Exchange {
  Ops& ops;
  Communicator& communicator;
  DeviceRanks* device_ranks;  // the communicator, where it works on memory of devices; else null
  const DispatchBuffers& buffers;
  Tensor status;
  CUstream_st* stream;

  // Status, max_tokens, T, and `counts` (rows to each rank, may be absent) reach every rank with
  // the next exchange, at once with `send`. Once heard, status holds the same words everywhere.
  void send_header(int64_t max_tokens, int64_t num_tokens, ConstTensor counts) const;
  void receive_headers(int tp_size) const;

  // The same for what went wrong since (an executor's overflow).
  void send_status() const;
  void receive_statuses() const;

  // Communicator::all_gather, of which several are one piece of work for a link: with the next
  // exchange.
  void gather(Tensor dst, ConstTensor src) const;
  void send() const;

  // Communicator::all_to_all_rows.
  void rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
            ConstTensor counts) const;
  // The same for one kind of row, and as many from each rank to each: [P * block, W] both.
  void equal_blocks(Tensor dst, ConstTensor src) const;

  // After the last exchange, and before counts are taken for true: what peers sent means nothing if
  // one was lost meanwhile.
  void note_lost_peers() const;

 private:
  Tensor status_headers() const;  // i32 [P, kStatusWords]
};

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

// What goes into a dispatch.
struct DispatchInput {
  ConstTensor hidden, ids, weights;
  int64_t max_tokens;
  Dispatcher::Slice own;
};

// What the dispatchers over a communicator have in common: how their calls begin and end.
class CommunicatorDispatcher : public Dispatcher {
 public:
  explicit CommunicatorDispatcher(DispatcherParts parts) : parts_(std::move(parts)) {}

  DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                          ConstTensor weights, int64_t max_tokens, Tensor status,
                          CUstream_st* stream) final;
  void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
               const Addend& addend, Tensor status, CUstream_st* stream) final;

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
  virtual ReceivedRows send(const Exchange& exchange, const DispatchInput& in) = 0;
  // Only where there are partial rows.
  virtual void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                         const DispatchedCall& call, const Addend& addend) = 0;

  DispatcherParts parts_;
};

// A slice's output rows -> all T rows on every rank of the tensor-parallel group.
class SliceGather {
 public:
  // Collective when tp_size > 1.
  explicit SliceGather(const DispatcherParts& parts);

  // Sums the returned partial rows of this rank's slice, and fills dst from every rank's.
  void sum_and_gather(const Exchange& exchange, Tensor dst, ConstTensor return_row,
                      Dispatcher::Slice own, const Addend& addend) const;

 private:
  std::unique_ptr<Communicator> group_;  // null when tp_size == 1
};

std::unique_ptr<Dispatcher> make_local_dispatcher(DispatcherParts parts);
std::unique_ptr<Dispatcher> make_normal_dispatcher(DispatcherParts parts);
std::unique_ptr<Dispatcher> make_all_gather_dispatcher(DispatcherParts parts);
// Any of them, where ranks reach into each other's memory.
std::unique_ptr<Dispatcher> make_peer_dispatcher(DispatcherParts parts);

}  // namespace switchyard
