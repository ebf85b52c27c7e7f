// src/dispatcher/all_gather.cc -- every rank's slice, padded to the call's bound, to every rank;
// equal blocks of partial rows back, summed in fp32 in rank order (a reduce-scatter that rounds
// once). The honest baseline: sizes never depend on the routing.
#include "dispatcher/parts.h"

namespace switchyard {
namespace {

class AllGatherDispatcher final : public CommunicatorDispatcher {
 public:
  explicit AllGatherDispatcher(DispatcherParts parts)
      : CommunicatorDispatcher(std::move(parts)), slices_(parts_) {}

  DispatcherKind kind() const override { return DispatcherKind::AllGather; }

  ReceivedRows send(const Exchange& exchange, const DispatchInput& in) override {
    const auto& [hidden, ids, weights, max_tokens, own] = in;
    const DispatchBuffers& b = exchange.buffers;
    Ops& ops = exchange.ops;
    CUstream_st* stream = exchange.stream;
    exchange.send_header(max_tokens, hidden.dim(0), {});

    // Rows that pad a slice are sent as they are and never read: their ids are -1.
    const auto padded = [&](Tensor block, ConstTensor rows) -> ConstTensor {
      if (rows.dim(0) == block.dim(0)) return rows;
      ops.run(Copy{block.rows(0, rows.dim(0)), rows}, stream);
      return block;
    };
    if (own.size < b.own_ids.dim(0)) ops.run(FillI32{b.own_ids, kNoExpert}, stream);
    exchange.gather(b.received_ids, padded(b.own_ids, ids));
    exchange.gather(b.rows, padded(b.own_rows, hidden.rows(own.begin, own.size)));
    exchange.gather(b.weights, padded(b.own_weights, weights));
    exchange.send();
    exchange.receive_headers(parts_.options.tp_size);
    ops.run(FillI32{b.num_rows, static_cast<int32_t>(b.rows.dim(0))}, stream);
    parts_.localize(b.ids, b.received_ids, b.num_rows, exchange.status, stream);
    return {{b.rows}, b.ids, b.weights, b.num_rows};
  }

  void send_back(const Exchange& exchange, Tensor dst, ConstTensor partial,
                 const DispatchedCall& call, const Addend& addend) override {
    const Slice own = slice(call.num_tokens);
    const DispatchBuffers& b = exchange.buffers;
    exchange.equal_blocks(b.returned, partial);
    exchange.receive_statuses();
    const Tensor return_row = b.return_row.rows(0, own.size);
    exchange.ops.run(BlockRows{return_row, b.own_rows.dim(0)}, exchange.stream);
    slices_.sum_and_gather(exchange, dst, return_row, own, addend);
  }

 private:
  SliceGather slices_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_all_gather_dispatcher(DispatcherParts parts) {
  return std::make_unique<AllGatherDispatcher>(std::move(parts));
}

}  // namespace switchyard
