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

  DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                          ConstTensor weights, int64_t max_tokens, Tensor status,
                          CUstream_st* stream) override {
    const Slice own = slice(hidden.dim(0));
    parts_.check(hidden, ids, weights, max_tokens, own);
    check_stream(stream);
    const auto b = parts_.take_buffers(workspace, max_tokens);
    Ops& ops = parts_.ops();

    ops.run(PlanDispatch{.send_rows = b.send_rows,
                         .send_counts = b.send_counts,
                         .return_row = b.return_row.rows(0, own.size),
                         .ids = ids,
                         .num_experts = parts_.config.num_experts,
                         .num_ranks = parts_.num_ranks(),
                         .rank = parts_.rank(),
                         .status = status},
            stream);
    const Exchange exchange = parts_.exchange(b, status, stream);
    exchange.send_header(max_tokens, hidden.dim(0), b.send_counts);
    exchange.send();
    exchange.receive_headers(parts_.options.tp_size);
    exchange.note_lost_peers();
    ops.run(ReadCounts{b.counts, b.counts_back, b.num_rows, b.headers, parts_.rank(), status},
            stream);

    const std::array<RowTransfer, 3> transfers{
        {{b.rows, hidden.rows(own.begin, own.size)}, {b.received_ids, ids}, {b.weights, weights}}};
    exchange.rows(transfers, b.send_rows, b.counts);
    parts_.localize(b.ids, b.received_ids, b.num_rows, status, stream);
    return {.received = {{b.rows}, b.ids, b.weights, b.num_rows},
            .num_tokens = hidden.dim(0),
            .max_tokens = max_tokens,
            .workspace = workspace,
            .weights = weights};
  }

  void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
               const Addend& addend, Tensor status, CUstream_st* stream) override {
    const Slice own = slice(call.num_tokens);
    const auto b = parts_.take_buffers(call.workspace, call.max_tokens);
    const Exchange exchange = parts_.exchange(b, status, stream);
    exchange.send_status();
    const std::array<RowTransfer, 1> transfers{{{b.returned, partial.rows}}};
    exchange.rows(transfers, {}, b.counts_back);
    exchange.receive_statuses();
    const Tensor target = slices_.target(dst, b, own);
    parts_.ops().run(sum_partials(target, b.returned, b.return_row.rows(0, own.size), addend),
                     stream);
    slices_.gather(dst, b, parts_.ops(), stream);
    exchange.note_lost_peers();
  }

 private:
  SliceGather slices_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_normal_dispatcher(DispatcherParts parts) {
  return std::make_unique<NormalDispatcher>(std::move(parts));
}

}  // namespace switchyard
