// src/ops/traced_ops.cc -- what each operation has to move and compute, written beside its call.
#include "ops/traced_ops.h"

#include <algorithm>
#include <chrono>

namespace switchyard {
namespace {

double bytes_of(ConstTensor t) {
  return static_cast<double>(t.bytes());
}
double row_bytes(ConstTensor t, double rows) {
  return rows * static_cast<double>(t.dim(1) * dtype_bytes(t.dtype));
}

double filled_slots(ConstTensor row_of_slot, int64_t num_rows) {
  const auto* row = row_of_slot.as<int32_t>();
  const int64_t slots = num_rows * row_of_slot.dim(1);
  return static_cast<double>(slots - std::count(row, row + slots, kNoRow));
}

int64_t rows_in(ConstTensor num_rows) {
  return num_rows.as<int32_t>()[0];
}

double addend_bytes(const Addend& addend, double rows) {
  return addend.rows.present() ? row_bytes(addend.rows, rows) : 0;
}

}  // namespace

template <class F, class W>
void TracedOps::trace(const char* op, F&& call, W&& work) {
  const auto start = std::chrono::steady_clock::now();
  call();
  const std::chrono::duration<double, std::micro> us = std::chrono::steady_clock::now() - start;
  const Work w = work();
  observer_({op, us.count(), w.bytes, w.flops});
}

void TracedOps::gate_topk(Tensor ids, Tensor weights, ConstTensor logits, ConstTensor bias,
                          const GateConfig& gate, CUstream_st* stream) {
  trace(
      "gate_topk", [&] { ops_.gate_topk(ids, weights, logits, bias, gate, stream); },
      [&] {
        return Work{bytes_of(ids) + bytes_of(weights) + bytes_of(logits), 0};
      });
}

void TracedOps::narrow_ids(Tensor dst, ConstTensor src, CUstream_st* stream) {
  trace(
      "narrow_ids", [&] { ops_.narrow_ids(dst, src, stream); },
      [&] {
        return Work{bytes_of(dst) + bytes_of(src), 0};
      });
}

void TracedOps::plan_dispatch(const DispatchPlan& plan, ConstTensor ids, int64_t num_experts,
                              int num_ranks, int rank, Tensor status, CUstream_st* stream) {
  trace(
      "plan_dispatch",
      [&] { ops_.plan_dispatch(plan, ids, num_experts, num_ranks, rank, status, stream); },
      [&] {
        return Work{bytes_of(ids) + 2 * bytes_of(plan.return_row), 0};
      });
}

void TracedOps::localize_ids(Tensor dst, ConstTensor src, ConstTensor num_rows, int64_t first,
                             int64_t num_local, int64_t num_experts, int rank, Tensor status,
                             CUstream_st* stream) {
  trace(
      "localize_ids",
      [&] {
        ops_.localize_ids(dst, src, num_rows, first, num_local, num_experts, rank, status, stream);
      },
      [&] {
        const auto rows = static_cast<double>(num_rows.present() ? rows_in(num_rows) : src.dim(0));
        return Work{2 * row_bytes(dst, rows), 0};
      });
}

void TracedOps::merge_status(Tensor status, ConstTensor headers, CUstream_st* stream) {
  trace(
      "merge_status", [&] { ops_.merge_status(status, headers, stream); },
      [&] {
        return Work{bytes_of(headers), 0};
      });
}

void TracedOps::block_rows(Tensor dst, int64_t stride, CUstream_st* stream) {
  trace(
      "block_rows", [&] { ops_.block_rows(dst, stride, stream); },
      [&] {
        return Work{bytes_of(dst), 0};
      });
}

void TracedOps::check_headers(Tensor status, ConstTensor headers, int tp_size,
                              CUstream_st* stream) {
  trace(
      "check_headers", [&] { ops_.check_headers(status, headers, tp_size, stream); },
      [&] {
        return Work{bytes_of(headers), 0};
      });
}

void TracedOps::read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers,
                            int rank, ConstTensor status, CUstream_st* stream) {
  trace(
      "read_counts",
      [&] { ops_.read_counts(counts, counts_back, num_rows, headers, rank, status, stream); },
      [&] {
        return Work{bytes_of(headers) + 2 * bytes_of(counts), 0};
      });
}

void TracedOps::plan_rows(const RowPlan& plan, ConstTensor ids, ConstTensor num_rows, int rank,
                          Tensor status, CUstream_st* stream) {
  trace(
      "plan_rows", [&] { ops_.plan_rows(plan, ids, num_rows, rank, status, stream); },
      [&] {
        const double slots = row_bytes(ids, static_cast<double>(rows_in(num_rows)));
        return Work{4 * slots, 0};  // ids twice, row_of_slot and slot_of_row once
      });
}

void TracedOps::scatter_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot,
                             ConstTensor num_rows, CUstream_st* stream) {
  trace(
      "scatter_rows", [&] { ops_.scatter_rows(dst, src, row_of_slot, num_rows, stream); },
      [&] {
        const int64_t rows = rows_in(num_rows);
        return Work{row_bytes(src, static_cast<double>(rows)) +
                        row_bytes(dst, filled_slots(row_of_slot, rows)),
                    0};
      });
}

void TracedOps::grouped_gemm(const GroupedGemm& gemm, CUstream_st* stream) {
  trace(
      gemm.name, [&] { ops_.grouped_gemm(gemm, stream); },
      [&] {
        const auto* counts = gemm.groups.counts.as<int32_t>();
        const int64_t num_experts = gemm.weights.dim(0);
        double rows = 0, active = 0;
        for (int64_t e = 0; e < num_experts; ++e) rows += counts[e], active += counts[e] > 0;
        const auto nk = static_cast<double>(gemm.weights.dim(1) * gemm.weights.dim(2));
        return Work{active * nk * 2 + row_bytes(gemm.src, rows) + row_bytes(gemm.dst, rows),
                    2 * rows * nk};
      });
}

void TracedOps::gather_rows(Tensor dst, ConstTensor src, ConstTensor row_of_slot,
                            ConstTensor weights, const Addend& addend, ConstTensor num_rows,
                            CUstream_st* stream) {
  trace(
      "gather_rows",
      [&] { ops_.gather_rows(dst, src, row_of_slot, weights, addend, num_rows, stream); },
      [&] {
        const int64_t n = rows_in(num_rows);
        const auto rows = static_cast<double>(n);
        const double slots = filled_slots(row_of_slot, n);
        return Work{row_bytes(src, slots) + row_bytes(dst, rows) + addend_bytes(addend, rows),
                    2 * slots * static_cast<double>(dst.dim(1))};
      });
}

void TracedOps::sum_partials(Tensor dst, ConstTensor src, ConstTensor return_row,
                             const Addend& addend, CUstream_st* stream) {
  trace(
      "sum_partials", [&] { ops_.sum_partials(dst, src, return_row, addend, stream); },
      [&] {
        const auto rows = static_cast<double>(dst.dim(0));
        const double partials = filled_slots(return_row, dst.dim(0));
        return Work{row_bytes(src, partials) + bytes_of(dst) + addend_bytes(addend, rows),
                    partials * static_cast<double>(dst.dim(1))};
      });
}

void TracedOps::single_group(const RowGroups& groups, int64_t num_rows, CUstream_st* stream) {
  ops_.single_group(groups, num_rows, stream);  // three words: not worth a line
}

void TracedOps::sigmoid(Tensor dst, ConstTensor src, CUstream_st* stream) {
  trace(
      "sigmoid", [&] { ops_.sigmoid(dst, src, stream); },
      [&] {
        return Work{2 * bytes_of(dst), 0};
      });
}

void TracedOps::fill_i32(Tensor dst, int32_t value, CUstream_st* stream) {
  trace(
      "fill_i32", [&] { ops_.fill_i32(dst, value, stream); },
      [&] {
        return Work{bytes_of(dst), 0};
      });
}

void TracedOps::copy(Tensor dst, ConstTensor src, CUstream_st* stream) {
  trace(
      "copy", [&] { ops_.copy(dst, src, stream); },
      [&] {
        return Work{2 * bytes_of(src), 0};
      });
}

void TracedOps::poison(Tensor dst, ConstTensor status, CUstream_st* stream) {
  ops_.poison(dst, status, stream);  // reads one word unless something failed
}

}  // namespace switchyard
