// src/ops/recorded_ops.cc -- what each operation has to move and compute, written beside its call.
// Calls keep their arguments by value: the caller's structs are gone when they run again.
#include "ops/recorded_ops.h"

#include <algorithm>
#include <numeric>

#include "base/state_slots.h"

namespace switchyard {
namespace {

double bytes_of(ConstTensor t) {
  return static_cast<double>(t.bytes());
}
double row_bytes(ConstTensor t, double rows) {
  return rows * static_cast<double>(t.dim(1) * dtype_bytes(t.dtype));
}

double filled_slots(const ReadI32& read, ConstTensor row_of_slot, const RowRange& rows) {
  const auto row = read(row_of_slot.rows(rows.begin, rows.size));
  return static_cast<double>(static_cast<int64_t>(row.size()) -
                             std::count(row.begin(), row.end(), kNoRow));
}

// Rows that go to ranks other than `rank`, or come from them: return_row i32 [T, P].
double rows_of_others(const ReadI32& read, ConstTensor return_row, int rank) {
  const auto row = read(return_row);
  const auto num_ranks = static_cast<size_t>(return_row.dim(1));
  double count = 0;
  for (size_t i = 0; i < row.size(); ++i)
    count += row[i] != kNoRow && i % num_ranks != static_cast<size_t>(rank);
  return count;
}

int64_t rows_in(const ReadI32& read, ConstTensor num_rows) {
  return read(num_rows).front();
}

double addend_bytes(const Addend& addend, double rows) {
  return addend.rows.present() ? row_bytes(addend.rows, rows) : 0;
}

std::function<Work(const ReadI32&)> moves(double bytes) {
  return [bytes](const ReadI32&) { return Work{bytes, 0, 0}; };
}

// Ids and weights go to every rank, and rows where the route says.
Work push_work(const PeerWindow& window, const PeerPush& push, const ReadI32& read) {
  if (push.route == PeerRoute::Nobody)
    return {2 * bytes_of(push.ids) + bytes_of(push.return_row), 0, 0};
  const double tokens = static_cast<double>(push.rows.dim(0)), peers = window.num_ranks - 1;
  const bool stand_there = push.stand_there();
  double sent = 0, crossing = 0;
  if (push.route == PeerRoute::Everyone)
    sent = tokens * window.num_ranks, crossing = tokens * peers;
  if (push.route == PeerRoute::Offered) sent = stand_there ? 0 : tokens;
  if (push.route == PeerRoute::Owners) {
    sent = filled_slots(read, push.return_row, {0, push.return_row.dim(0)});
    crossing = rows_of_others(read, push.return_row, window.rank);
  }
  const double slots = bytes_of(push.ids) + bytes_of(push.weights), row = row_bytes(push.rows, 1);
  const double read_bytes = stand_there ? 0 : bytes_of(push.rows);
  return {read_bytes + sent * row + slots * (1 + window.num_ranks), 0, 0,
          crossing * row + slots * peers};
}

Work gemm_work(const GroupedGemm& gemm, const ReadI32& read) {
  const auto counts = read(gemm.groups.counts);
  double rows = 0, active = 0;
  for (const int32_t count : counts) rows += count, active += count > 0;
  const auto nk = static_cast<double>(gemm.weights.dim(1) * gemm.weights.dim(2));
  const double weight_bytes = active * nk * 2;
  return {weight_bytes + row_bytes(gemm.src, rows) + row_bytes(gemm.dst, rows), 2 * rows * nk,
          weight_bytes};
}

// Sequences of a step and the states that it moves, each of them once. Block ids are taken for
// valid.
struct StateTraffic {
  double sequences = 0, states = 0;

  StateTraffic(const std::vector<int32_t>& lengths, const StateMap& map, int num_tokens) {
    const auto block_tokens = static_cast<int32_t>(map.block_tokens);
    for (const int32_t length : lengths) {
      if (length < 1) continue;
      ++sequences;
      const bool reads = length >= 2;
      if (reads && read_slot(length, block_tokens) >= map.num_slots) continue;
      states += reads;
      for (int i = 0; i < num_tokens; ++i)
        states += write_slot(length, block_tokens, i) < map.num_slots;
    }
  }
};

double bytes_per_row(ConstTensor t) {
  return t.dim(0) == 0 ? 0 : bytes_of(t) / static_cast<double>(t.dim(0));
}

double conv_bytes(const ConvDecode& step, const StateTraffic& traffic) {
  return traffic.sequences * 2 * bytes_per_row(step.x) +
         traffic.states * bytes_per_row(step.state) + bytes_of(step.weight) + bytes_of(step.bias);
}

Work delta_rule_work(const DeltaRuleDecode& step, const StateTraffic& traffic) {
  const double state_bytes = bytes_per_row(step.state);
  const double per_sequence = bytes_per_row(step.q) + bytes_per_row(step.k) +
                              bytes_per_row(step.v) + bytes_per_row(step.g) +
                              bytes_per_row(step.beta) + bytes_per_row(step.output);
  // decay, two dot products, one update of every element of the state
  const double flops = 7 * state_bytes / sizeof(float) * static_cast<double>(step.v.dim(1));
  return {traffic.sequences * per_sequence + traffic.states * state_bytes,
          traffic.sequences * flops, 0};
}

}  // namespace

void RecordedOps::gate_topk(const GateTopk& gate, CUstream_st* stream) {
  note({"gate_topk", [=, this](CUstream_st* s) { ops_.gate_topk(gate, s); },
        moves(bytes_of(gate.logits) + bytes_of(gate.ids) + bytes_of(gate.weights))},
       stream);
}

void RecordedOps::split_f32(Tensor dst, ConstTensor src, CUstream_st* stream) {
  note({"split_f32", [=, this](CUstream_st* s) { ops_.split_f32(dst, src, s); },
        moves(bytes_of(src) + bytes_of(dst))},
       stream);
}

void RecordedOps::split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids,
                                     ConstTensor weights, int64_t num_experts, int64_t num_ids,
                                     CUstream_st* stream) {
  note({"split_zero_experts",
        [=, this](CUstream_st* s) {
          ops_.split_zero_experts(dst_ids, identity, ids, weights, num_experts, num_ids, s);
        },
        moves(2 * bytes_of(ids) + bytes_of(weights) + bytes_of(identity))},
       stream);
}

void RecordedOps::narrow_ids(Tensor dst, ConstTensor src, int64_t num_experts, int rank,
                             Tensor status, CUstream_st* stream) {
  note({"narrow_ids",
        [=, this](CUstream_st* s) { ops_.narrow_ids(dst, src, num_experts, rank, status, s); },
        moves(bytes_of(dst) + bytes_of(src))},
       stream);
}

void RecordedOps::plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts,
                                int num_ranks, int rank, Tensor status, CUstream_st* stream) {
  note({"plan_dispatch",
        [=, this](CUstream_st* s) {
          ops_.plan_dispatch(plan, ids, num_experts, num_ranks, rank, status, s);
        },
        moves(bytes_of(ids) + 2 * bytes_of(plan.return_row))},
       stream);
}

void RecordedOps::localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                               int64_t num_local, int64_t num_experts, int rank, Tensor status,
                               CUstream_st* stream) {
  note({"localize_ids",
        [=, this](CUstream_st* s) {
          ops_.localize_ids(dst, src, num_rows, first, num_local, num_experts, rank, status, s);
        },
        [=](const ReadI32& read) {
          const int64_t rows = num_rows.present() ? rows_in(read, num_rows) : src.dim(0);
          return Work{2 * row_bytes(dst, static_cast<double>(rows)), 0, 0};
        }},
       stream);
}

void RecordedOps::merge_status(Tensor status, ConstTensor headers, CUstream_st* stream) {
  note({"merge_status", [=, this](CUstream_st* s) { ops_.merge_status(status, headers, s); },
        moves(bytes_of(headers))},
       stream);
}

void RecordedOps::block_rows(Tensor dst, int64_t stride, CUstream_st* stream) {
  note({"block_rows", [=, this](CUstream_st* s) { ops_.block_rows(dst, stride, s); },
        moves(bytes_of(dst))},
       stream);
}

void RecordedOps::check_headers(Tensor status, ConstTensor headers, int tp_size,
                                CUstream_st* stream) {
  note({"check_headers",
        [=, this](CUstream_st* s) { ops_.check_headers(status, headers, tp_size, s); },
        moves(bytes_of(headers))},
       stream);
}

void RecordedOps::read_counts(Tensor counts, Tensor counts_back, Tensor num_rows,
                              ConstTensor headers, int rank, ConstTensor status,
                              CUstream_st* stream) {
  note({"read_counts",
        [=, this](CUstream_st* s) {
          ops_.read_counts(counts, counts_back, num_rows, headers, rank, status, s);
        },
        moves(bytes_of(headers) + 2 * bytes_of(counts))},
       stream);
}

void RecordedOps::pack_rows(Tensor dst, ConstTensor src, ConstTensor send_rows, ConstTensor counts,
                            int rank, int64_t block, CUstream_st* stream) {
  note({"pack_rows",
        [=, this](CUstream_st* s) { ops_.pack_rows(dst, src, send_rows, counts, rank, block, s); },
        [=](const ReadI32& read) {
          const auto row = read(counts.rows(rank, 1));
          return Work{2 * row_bytes(src, std::accumulate(row.begin(), row.end(), 0.0)), 0, 0};
        }},
       stream);
}

void RecordedOps::unpack_rows(Tensor dst, ConstTensor blocks, ConstTensor own, ConstTensor counts,
                              int rank, int64_t block, CUstream_st* stream) {
  note({"unpack_rows",
        [=, this](CUstream_st* s) { ops_.unpack_rows(dst, blocks, own, counts, rank, block, s); },
        [=](const ReadI32& read) {
          const auto all = read(counts);
          const auto num_ranks = static_cast<size_t>(counts.dim(0));
          double rows = 0;
          for (size_t s = 0; s < num_ranks; ++s)
            rows += all[s * num_ranks + static_cast<size_t>(rank)];
          return Work{2 * row_bytes(dst, rows), 0, 0};
        }},
       stream);
}

void RecordedOps::note_ended(Tensor status, const int32_t* ended, int rank, CUstream_st* stream) {
  note({"note_ended", [=, this](CUstream_st* s) { ops_.note_ended(status, ended, rank, s); },
        moves(0)},
       stream);
}

void RecordedOps::plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                            Tensor status, CUstream_st* stream) {
  note({"plan_rows",
        [=, this](CUstream_st* s) { ops_.plan_rows(plan, ids, num_rows, rank, status, s); },
        [=](const ReadI32& read) {
          const auto rows = static_cast<double>(rows_in(read, num_rows));
          // ids and row_of_slot once each; slot_of_row where somebody wants it
          return Work{(plan.slot_of_row.present() ? 3 : 2) * row_bytes(ids, rows), 0, 0};
        }},
       stream);
}

void RecordedOps::group_rows(const RowGroups& groups, ConstTensor row_expert, int rank,
                             Tensor status, CUstream_st* stream) {
  note({"group_rows",
        [=, this](CUstream_st* s) { ops_.group_rows(groups, row_expert, rank, status, s); },
        moves(bytes_of(row_expert))},
       stream);
}

void RecordedOps::scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot,
                               ConstTensor num_rows, CUstream_st* stream) {
  note({"scatter_rows",
        [=, this](CUstream_st* s) { ops_.scatter_rows(dst, src, row_of_slot, num_rows, s); },
        [=](const ReadI32& read) {
          const int64_t rows = rows_in(read, num_rows);
          return Work{row_bytes(src, static_cast<double>(rows)) +
                          row_bytes(dst, filled_slots(read, row_of_slot, {0, rows})),
                      0, 0};
        }},
       stream);
}

void RecordedOps::grouped_gemm(const GroupedGemm& gemm, CUstream_st* stream) {
  note({gemm.name, [=, this](CUstream_st* s) { ops_.grouped_gemm(gemm, s); },
        [=](const ReadI32& read) { return gemm_work(gemm, read); }},
       stream);
}

void RecordedOps::gather_rows(Tensor dst, const SlotSums& sums, const Addend& addend,
                              ConstTensor num_rows, const KeptRows& kept, CUstream_st* stream) {
  note({"gather_rows",
        [=, this](CUstream_st* s) { ops_.gather_rows(dst, sums, addend, num_rows, kept, s); },
        [=](const ReadI32& read) {
          const int64_t n = rows_in(read, num_rows);
          const RowRange left_out = n > 0 ? kept.range : RowRange{};
          const auto rows = static_cast<double>(n - left_out.size);
          const double slots = filled_slots(read, sums.row_of_slot, {0, n}) -
                               filled_slots(read, sums.row_of_slot, left_out);
          return Work{
              row_bytes(sums.rows, slots) + row_bytes(dst, rows) + addend_bytes(addend, rows),
              2 * slots * static_cast<double>(dst.dim(1)), 0};
        }},
       stream);
}

void RecordedOps::sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row,
                               const Addend& addend, CUstream_st* stream) {
  note({"sum_partials",
        [=, this](CUstream_st* s) { ops_.sum_partials(dst, src, return_row, addend, s); },
        [=](const ReadI32& read) {
          const auto rows = static_cast<double>(dst.dim(0));
          const double partials = filled_slots(read, return_row, {0, dst.dim(0)});
          return Work{row_bytes(src, partials) + bytes_of(dst) + addend_bytes(addend, rows),
                      partials * static_cast<double>(dst.dim(1)), 0};
        }},
       stream);
}

void RecordedOps::push_rows(const PeerWindow& window, const PeerPush& push, ConstTensor status,
                            CUstream_st* stream) {
  note({"push_rows", [=, this](CUstream_st* s) { ops_.push_rows(window, push, status, s); },
        [=](const ReadI32& read) { return push_work(window, push, read); }},
       stream);
}

void RecordedOps::await_rows(const PeerWindow& window, const PeerArrival& arrival, PeerMeet part,
                             Tensor status, CUstream_st* stream) {
  note({"await_rows",
        [=, this](CUstream_st* s) { ops_.await_rows(window, arrival, part, status, s); },
        moves(bytes_of(window.headers))},
       stream);
}

void RecordedOps::fetch_rows(const PeerWindow& window, Tensor dst, ConstTensor rows, int64_t block,
                             ConstTensor row_of_slot, ConstTensor num_rows, CUstream_st* stream) {
  note({"fetch_rows",
        [=, this](CUstream_st* s) {
          ops_.fetch_rows(window, dst, rows, block, row_of_slot, num_rows, s);
        },
        [=](const ReadI32& read) {
          const auto row = read(row_of_slot.rows(0, rows_in(read, num_rows)));
          const auto top_k = row_of_slot.dim(1);
          double here = 0, crossing = 0, slots = 0;
          for (int64_t r = 0; r * top_k < static_cast<int64_t>(row.size()); ++r) {
            const auto first = row.begin() + r * top_k;
            const auto filled = top_k - std::count(first, first + top_k, kNoRow);
            slots += static_cast<double>(filled);
            (r / block == window.rank ? here : crossing) += filled > 0;
          }
          return Work{row_bytes(rows, here + crossing) + row_bytes(dst, slots), 0, 0,
                      row_bytes(rows, crossing)};
        }},
       stream);
}

void RecordedOps::meet_peers(const PeerWindow& window, PeerPhase phase, PeerMeet part, int first,
                             int num, Tensor status, CUstream_st* stream) {
  note({"meet_peers",
        [=, this](CUstream_st* s) { ops_.meet_peers(window, phase, part, first, num, status, s); },
        moves(bytes_of(status) * num)},
       stream);
}

void RecordedOps::pull_sums(const PeerWindow& window, Tensor dst, ConstTensor partial,
                            ConstTensor return_row, const SlotSums& own, const Addend& addend,
                            ConstTensor status, CUstream_st* stream) {
  note({"pull_sums",
        [=, this](CUstream_st* s) {
          ops_.pull_sums(window, dst, partial, return_row, own, addend, status, s);
        },
        [=](const ReadI32& read) {
          const auto rows = static_cast<double>(dst.dim(0));
          const double others = rows_of_others(read, return_row, window.rank);
          const double terms = own.rows.present()
                                   ? others + filled_slots(read, own.row_of_slot, {0, dst.dim(0)})
                                   : filled_slots(read, return_row, {0, dst.dim(0)});
          return Work{row_bytes(partial, terms) + bytes_of(dst) + addend_bytes(addend, rows),
                      terms * static_cast<double>(dst.dim(1)), 0, others * row_bytes(partial, 1)};
        }},
       stream);
}

void RecordedOps::pull_slices(const PeerWindow& window, Tensor dst, ConstTensor slice, int first,
                              int num, ConstTensor status, CUstream_st* stream) {
  note({"pull_slices",
        [=, this](CUstream_st* s) { ops_.pull_slices(window, dst, slice, first, num, status, s); },
        moves(2 * bytes_of(dst))},
       stream);
}

void RecordedOps::conv_decode(const ConvDecode& step, Tensor status, CUstream_st* stream) {
  note({"conv_decode", [=, this](CUstream_st* s) { ops_.conv_decode(step, status, s); },
        [=](const ReadI32& read) {
          const int n = step_tokens(step);
          return Work{conv_bytes(step, {read(step.map.sequence_lengths), step.map, n}), 0, 0};
        }},
       stream);
}

void RecordedOps::conv_prefill_states(const ConvPrefillStates& step, Tensor status,
                                      CUstream_st* stream) {
  note({"conv_prefill_states",
        [=, this](CUstream_st* s) { ops_.conv_prefill_states(step, status, s); },
        [=](const ReadI32& read) {
          const auto starts = read(step.starts), prefix = read(step.prefix_lengths);
          double states = 0;
          for (size_t b = 0; b < prefix.size(); ++b)
            if (prefix[b] >= 0 && starts[b + 1] > starts[b])
              states += static_cast<double>(num_prefill_states(
                  prefix[b], int64_t{starts[b + 1]} - starts[b], step.map.block_tokens));
          return Work{2 * states * bytes_per_row(step.state), 0, 0};
        }},
       stream);
}

void RecordedOps::delta_rule_decode(const DeltaRuleDecode& step, Tensor status,
                                    CUstream_st* stream) {
  note({"delta_rule_decode", [=, this](CUstream_st* s) { ops_.delta_rule_decode(step, status, s); },
        [=](const ReadI32& read) {
          const int n = static_cast<int>(step.v.dim(1));
          return delta_rule_work(step, {read(step.map.sequence_lengths), step.map, n});
        }},
       stream);
}

void RecordedOps::norm_rows(const NormRows& norm, CUstream_st* stream) {
  note({"norm_rows", [=, this](CUstream_st* s) { ops_.norm_rows(norm, s); },
        moves(bytes_of(norm.src) + bytes_of(norm.dst) + bytes_of(norm.inverse))},
       stream);
}

void RecordedOps::weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights,
                               CUstream_st* stream) {
  note({"weigh_shared", [=, this](CUstream_st* s) { ops_.weigh_shared(dst, src, weights, s); },
        moves(bytes_of(src) + bytes_of(weights) + bytes_of(dst))},
       stream);
}

void RecordedOps::add_rows(Tensor dst, ConstTensor src, const Addend& addend, CUstream_st* stream) {
  note({"add_rows", [=, this](CUstream_st* s) { ops_.add_rows(dst, src, addend, s); },
        moves(bytes_of(src) + bytes_of(addend.rows) + bytes_of(dst))},
       stream);
}

void RecordedOps::widen(Tensor dst, ConstTensor src, CUstream_st* stream) {
  note({"widen", [=, this](CUstream_st* s) { ops_.widen(dst, src, s); },
        moves(bytes_of(src) + bytes_of(dst))},
       stream);
}

void RecordedOps::single_group(const RowGroups& groups, int64_t num_rows, CUstream_st* stream) {
  note({"single_group", [=, this](CUstream_st* s) { ops_.single_group(groups, num_rows, s); },
        moves(0)},
       stream);
}

void RecordedOps::sigmoid(Tensor dst, ConstTensor src, CUstream_st* stream) {
  note({"sigmoid", [=, this](CUstream_st* s) { ops_.sigmoid(dst, src, s); },
        moves(2 * bytes_of(dst))},
       stream);
}

void RecordedOps::fill_i32(Tensor dst, int32_t value, CUstream_st* stream) {
  note({"fill_i32", [=, this](CUstream_st* s) { ops_.fill_i32(dst, value, s); },
        moves(bytes_of(dst))},
       stream);
}

void RecordedOps::copy(Tensor dst, ConstTensor src, CUstream_st* stream) {
  note({"copy", [=, this](CUstream_st* s) { ops_.copy(dst, src, s); }, moves(2 * bytes_of(src))},
       stream);
}

void RecordedOps::poison(Tensor dst, ConstTensor status, CUstream_st* stream) {
  // one word, unless something failed
  note({"poison", [=, this](CUstream_st* s) { ops_.poison(dst, status, s); }, moves(0)}, stream);
}

}  // namespace switchyard
