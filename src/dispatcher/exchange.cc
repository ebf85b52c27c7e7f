// src/dispatcher/exchange.cc
#include "dispatcher/exchange.h"

namespace switchyard {

void Exchange::headers(int64_t max_tokens, int64_t num_tokens, ConstTensor counts,
                       int tp_size) const {
  const Tensor& header = buffers.header;
  ops.copy(header.rows(0, kStatusWords), status, stream);
  ops.fill_i32(header.rows(kHeaderMaxTokens, 1), static_cast<int32_t>(max_tokens), stream);
  ops.fill_i32(header.rows(kHeaderTokens, 1), static_cast<int32_t>(num_tokens), stream);
  const Tensor to_ranks = header.rows(kHeaderCounts, communicator.size());
  if (counts.present())
    ops.copy(to_ranks, counts, stream);
  else
    ops.fill_i32(to_ranks, 0, stream);
  communicator.all_gather(buffers.headers, header, stream);
  ops.check_headers(status, buffers.headers, tp_size, stream);
}

void Exchange::statuses() const {
  const Tensor mine = buffers.header.rows(0, kStatusWords);
  Tensor all = buffers.headers;
  all.shape = {communicator.size(), kStatusWords};
  ops.copy(mine, status, stream);
  communicator.all_gather(all, mine, stream);
  ops.merge_status(status, all, stream);
}

}  // namespace switchyard
