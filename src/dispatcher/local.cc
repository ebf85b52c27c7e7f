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

  DispatchedCall dispatch(Workspace workspace, ConstTensor hidden, ConstTensor ids,
                          ConstTensor weights, int64_t max_tokens, Tensor status,
                          CUstream_st* stream) override {
    const int64_t num_tokens = hidden.dim(0);
    parts_.check(hidden, ids, weights, max_tokens, slice(num_tokens));
    if (parts_.num_ranks() == 1)
      return {.received = {.source = {hidden},
                           .ids = ids,
                           .weights = weights,
                           .num_rows = {},
                           .ids_are_given = true},
              .num_tokens = num_tokens,
              .max_tokens = max_tokens,
              .workspace = workspace,
              .weights = weights};
    const auto buffers = parts_.take_buffers(workspace, max_tokens);
    parts_.ops().run(FillI32{buffers.num_rows, static_cast<int32_t>(num_tokens)}, stream);
    parts_.localize(buffers.ids, ids, {}, status, stream);
    const Exchange exchange = parts_.exchange(buffers, status, stream);
    exchange.send_header(max_tokens, num_tokens, {});
    exchange.send();
    exchange.receive_headers(parts_.num_ranks());
    return {.received = {{hidden}, buffers.ids, weights, buffers.num_rows},
            .num_tokens = num_tokens,
            .max_tokens = max_tokens,
            .workspace = workspace,
            .weights = weights};
  }

  bool combine_poisons() const override { return parts_.num_ranks() == 1; }

  // One rank's rows are final: combine sums them, and rounds once.
  PartialRows sum_experts(const SlotSums& sums, const DispatchedCall& call, Tensor room,
                          CUstream_st* stream) override {
    if (parts_.num_ranks() == 1) return {{}, sums};
    return CommunicatorDispatcher::sum_experts(sums, call, room, stream);
  }

  void combine(Tensor dst, const PartialRows& partial, const DispatchedCall& call,
               const Addend& addend, Tensor status, CUstream_st* stream) override {
    const SlotSums& sums = partial.sums;
    if (!partial.rows.present()) {
      if (!sums.rows.present()) return;
      SumRows sum = gather_rows(dst, sums, call.received, addend);
      sum.poison = status;
      parts_.ops().run(sum, stream);
      return;
    }
    const auto buffers = parts_.take_buffers(call.workspace, call.max_tokens);
    const Exchange exchange = parts_.exchange(buffers, status, stream);
    exchange.send_status();
    exchange.gather(buffers.returned, partial.rows.rows(0, call.max_tokens));
    exchange.send();
    exchange.receive_statuses();
    const Tensor return_row = buffers.return_row.rows(0, call.num_tokens);
    parts_.ops().run(BlockRows{return_row, call.max_tokens}, stream);
    parts_.ops().run(sum_partials(dst, buffers.returned, return_row, addend), stream);
    exchange.note_lost_peers();
  }
};

}  // namespace

std::unique_ptr<Dispatcher> make_local_dispatcher(DispatcherParts parts) {
  return std::make_unique<LocalDispatcher>(std::move(parts));
}

}  // namespace switchyard
