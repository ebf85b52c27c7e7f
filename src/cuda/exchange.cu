// src/cuda/exchange.cu
#include "cuda/exchange.cuh"

#include "base/checked.h"
#include "cuda/ops.h"

namespace switchyard::cuda {

void merge_status(Tensor status, ConstTensor headers, cudaStream_t stream) {
  launch(merge_status_kernel, 1, 32, 0, stream, status.as<int32_t>(), headers.as<int32_t>(),
         headers.dim(0), headers.dim(1));
}

void block_rows(Tensor dst, int64_t stride, cudaStream_t stream) {
  launch(block_rows_kernel, ceil_div(dst.count(), int64_t{kExchangeThreads}), kExchangeThreads, 0,
         stream, dst.as<int32_t>(), stride, dst.dim(1), dst.count());
}

void check_headers(Tensor status, ConstTensor headers, int tp_size, cudaStream_t stream) {
  launch(check_headers_kernel, 1, 32, 0, stream, status.as<int32_t>(), headers.as<int32_t>(),
         headers.dim(0), headers.dim(1), tp_size);
}

void read_counts(Tensor counts, Tensor counts_back, Tensor num_rows, ConstTensor headers, int rank,
                 ConstTensor status, cudaStream_t stream) {
  const ReadCountsParams params{counts.as<int32_t>(),
                                counts_back.as<int32_t>(),
                                num_rows.as<int32_t>(),
                                headers.as<int32_t>(),
                                status.as<int32_t>(),
                                static_cast<int>(counts.dim(0)),
                                static_cast<int>(headers.dim(1)),
                                rank};
  launch(read_counts_kernel, 1, kExchangeThreads, 0, stream, params);
}

void note_ended(Tensor status, const int32_t* ended, int rank, cudaStream_t stream) {
  launch(note_ended_kernel, 1, 32, 0, stream, status.as<int32_t>(), ended, rank);
}

}  // namespace switchyard::cuda
