// src/dispatcher/normal.cc -- a token row crosses once to each rank that owns one of its experts;
// one partial row per (token, rank) comes back and is summed in fp32 in rank order.
#include <array>

#include "dispatcher/parts.h"

namespace switchyard {
namespace {

class NormalDispatcher final : public CommunicatorDispatcher {
 public:
  explicit NormalDispatcher(DispatcherParts parts)
      : CommunicatorDispatcher(std::move(parts)), slices_(parts_) {}

  DispatcherKind kind() const override { return DispatcherKind::Normal; }

  ReceivedRows send(const Exchange& exchange, const DispatchInput& in) override {
    const DispatchBuffers& b = exchange.buffers;
    exchange.ops.run(PlanDispatch{.send_rows = b.send_rows,
                                  .send_counts = b.send_counts,
                                  .return_row = b.return_row.rows(0, in.own.size),
                                  .ids = in.ids,
                                  .num_experts = parts_.config.num_experts,
                                  .num_ranks = parts_.num_ranks(),
                                  .rank = parts_.rank(),
                                  .status = exchange.status},
                     exchange.stream);
    exchange.send_header(in.max_tokens, in.hidden.dim(0), b.send_counts);
    exchange.send();
    exchange.receive_headers(parts_.options.tp_size);
    exchange.note_lost_peers();
    exchange.ops.run(
        ReadCounts{b.counts, b.counts_back, b.num_rows, b.headers, parts_.rank(), exchange.status},
        exchange.stream);

    const std::array<RowTransfer, 3> transfers{{{b.rows, in.hidden.rows(in.own.begin, in.own.size)},
                                                {b.received_ids, in.ids},
                                                {b.weights, in.weights}}};
    exchange.rows(transfers, b.send_rows, b.counts);
    parts_.localize(b.ids, b.received_ids, b.num_rows, exchange.status, exchange.stream);
    return {{b.rows}, b.ids, b.weights, b.num_rows};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    const std::array<RowTransfer, 1> transfers{{{b.returned, partial}}};
    exchange.rows(transfers, {}, b.counts_back);
    exchange.receive_statuses();
    slices_.sum_and_gather(exchange, dst, b.return_row.rows(0, own.size), own, addend);
  }

 private:
  SliceGather slices_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_normal_dispatcher(DispatcherParts parts) {
  return std::make_unique<NormalDispatcher>(std::move(parts));
}

}  // namespace switchyard
