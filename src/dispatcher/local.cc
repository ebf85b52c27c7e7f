// src/dispatcher/local.cc -- nothing moves on the way in. One rank: the executor's rows are final.
// tp = P: every rank holds all tokens, runs its own experts, and partial rows are summed at the
// end.
#include "dispatcher/parts.h"

namespace switchyard {
namespace {

class LocalDispatcher final : public CommunicatorDispatcher {
 public:
  using CommunicatorDispatcher::CommunicatorDispatcher;

  DispatcherKind kind() const override { return DispatcherKind::Local; }
  int64_t max_rows(int64_t max_tokens) const override { return max_tokens; }
  Slice slice(int64_t num_tokens) const override { return {0, num_tokens}; }

  ReceivedRows send(const Exchange& exchange, const DispatchInput& in) override {
    const DispatchBuffers& b = exchange.buffers;
    const int64_t num_tokens = in.hidden.dim(0);
    exchange.ops.run(FillI32{b.num_rows, static_cast<int32_t>(num_tokens)}, exchange.stream);
    parts_.localize(b.ids, in.ids, {}, exchange.status, exchange.stream);
    if (parts_.num_ranks() > 1) {
      exchange.send_header(in.max_tokens, num_tokens, {});
      exchange.send();
      exchange.receive_headers(parts_.num_ranks());
    }
    return {{in.hidden}, b.ids, in.weights, b.num_rows};
  }

  // One rank's rows are final: combine sums them, and rounds once.
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                          CUstream_st* stream) override {
    if (parts_.num_ranks() == 1) return {{}, sums};
    return CommunicatorDispatcher::sum_experts(sums, call, room, stream);
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const DispatchBuffers& b = exchange.buffers;
    exchange.gather(b.returned, partial.rows(0, call.max_tokens));
    exchange.send();
    exchange.receive_statuses();
    const Tensor return_row = b.return_row.rows(0, call.num_tokens);
    exchange.ops.run(BlockRows{return_row, call.max_tokens}, exchange.stream);
    exchange.ops.run(sum_partials(dst, b.returned, return_row, addend), exchange.stream);
  }
};

}  // namespace

std::unique_ptr<Dispatcher> make_local_dispatcher(DispatcherParts parts) {
  return std::make_unique<LocalDispatcher>(std::move(parts));
}

}  // namespace switchyard
