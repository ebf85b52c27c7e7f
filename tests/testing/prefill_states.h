// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/prefill_states.h -- prefill convolutions with the states they should leave: copies,
// so exact.
#pragma once

#include "testing/linear_attention.h"

namespace switchyard::testing {

struct PrefillProblem {
  std::vector<int32_t> prefix, num_new;  // of each sequence
  int64_t dim = 16, width = 4, block_tokens = 8, num_slots = 6;
  std::vector<PagedBatch::Planted> planted;
  std::vector<int32_t> starts;  // in place of the sums of num_new
  uint64_t seed = 1;
};

inline std::vector<PrefillProblem> prefill_problems() {
  std::vector<PrefillProblem> all;
  for (const int64_t width : {2, 4, 6})
    for (const int64_t block_tokens : {1, 2, 3, 8, 100}) {
      PrefillProblem p;
      p.width = width, p.block_tokens = block_tokens;
      p.prefix = {0, 0, 1, 2, 7, 8, 3, 20, -1, 5};
      p.num_new = {1, 17, 1, 3, 1, 2, 40, 2, 3, 0};
      p.seed = static_cast<uint64_t>(width * 1000 + block_tokens);
      p.num_slots = 50;
      all.push_back(p);
      p.num_slots = 3;  // most go beyond the table
      all.push_back(p);
    }
  PrefillProblem bad_ids;
  bad_ids.prefix = {5, 5, 12, 12, 12, 0}, bad_ids.num_new = {1, 1, 1, 20, 20, 20};
  bad_ids.planted = {{0, 0, -1}, {1, 0, kHugeBlock}, {2, 1, 0}, {3, 2, INT32_MAX}, {5, 1, -9}};
  all.push_back(bad_ids);
  PrefillProblem bad_rows;
  bad_rows.prefix = {0, 0, 0, 0}, bad_rows.num_new = {3, 3, 3, 3};
  bad_rows.starts = {-2, 3, 1, 9, 1000};
  all.push_back(bad_rows);
  return all;
}

template <class X, class S, template <class> class Buf>
void expect_prefill(LinearAttention& attention, const PrefillProblem& p) {
  SCOPED_TRACE(::testing::Message() << "w " << p.width << " S " << p.block_tokens << " slots "
                                    << p.num_slots << " seed " << p.seed);
  PagedBatch paged;
  paged.lengths.assign(p.prefix.size(), 0);
  paged.num_slots = p.num_slots, paged.row_stride = p.num_slots + 2;
  paged.block_tokens = p.block_tokens, paged.planted = p.planted;
  PagedMap<Buf> map(paged, p.seed);
  const int64_t batch = paged.batch(), depth = p.width - 1;

  Buffer<int32_t> starts({batch + 1}), prefix({batch});
  starts[0] = 0;
  for (int64_t b = 0; b < batch; ++b) {
    prefix[b] = p.prefix[static_cast<size_t>(b)];
    starts[b + 1] = starts[b] + p.num_new[static_cast<size_t>(b)];
  }
  const int64_t num_rows = starts[batch];
  std::copy(p.starts.begin(), p.starts.end(), starts.data());
  const auto x = random_numbers<X>({num_rows, p.dim}, p.seed + 1, -2, 2);
  const auto before = random_numbers<S>({paged.num_blocks(), p.dim, depth}, p.seed + 2, -2, 2);

  Buffer<S> after = before;
  std::vector<int32_t> status(static_cast<size_t>(batch));
  const auto valid = [&](int64_t id) { return id >= 1 && id < paged.num_blocks(); };
  const auto id_at = [&](int64_t b, int64_t slot) {
    return int64_t{map.table[b * paged.row_stride + slot]};
  };
  for (int64_t b = 0; b < batch; ++b) {
    int32_t& word = status[static_cast<size_t>(b)];
    const int64_t begin = starts[b], end = starts[b + 1], old = prefix[b];
    if (old < 0 || begin == end) continue;
    if (begin < 0 || end < begin || end > num_rows) {
      word |= 16;
      continue;
    }
    // u: the old state, then the new rows; token old + i stands at depth + i.
    std::optional<int64_t> from;
    std::vector<int64_t> last_tokens;
    for (int64_t t = old; t < old + end - begin; ++t)
      if ((t + 1) % p.block_tokens == 0 || t + 1 == old + end - begin) last_tokens.push_back(t);
    const bool reads = old > 0 && last_tokens.front() - old + 1 < depth;
    if (reads) {
      const int64_t slot = (old - 1) / p.block_tokens;
      if (slot >= p.num_slots)
        word |= 1;
      else if (!valid(id_at(b, slot)))
        word |= 2;
      else
        from = id_at(b, slot);
    }
    for (const int64_t t : last_tokens) {
      const int64_t slot = t / p.block_tokens;
      if (slot >= p.num_slots) {
        word |= 4;
      } else if (!valid(id_at(b, slot))) {
        word |= 8;
      } else if (!reads || from) {
        for (int64_t c = 0; c < p.dim; ++c)
          for (int64_t j = 0; j < depth; ++j) {
            const int64_t at = t - depth + 1 + j - old;  // from the first new token
            S value = S(0.0f);
            if (at >= 0)
              value = S(static_cast<float>(x[(begin + at) * p.dim + c]));
            else if (from)
              value = before[(*from * p.dim + c) * depth + depth + at];
            after[(id_at(b, slot) * p.dim + c) * depth + j] = value;
          }
      }
    }
  }

  Buf<X> device_x(x);
  Buf<S> pool(before);
  Buf<int32_t> device_starts(starts), device_prefix(prefix);
  ConvPrefillStates step;
  step.state = pool.view(), step.x = device_x.view();
  step.starts = device_starts.view(), step.prefix_lengths = device_prefix.view();
  step.map = map.map();
  step.map.sequence_lengths = {};
  attention.conv_prefill_states(step);
  expect_status(attention.wait_status(), status);
  EXPECT_TRUE(same_bits(on_host(pool), after));
  EXPECT_TRUE(on_host(pool).guards_intact());
}

}  // namespace switchyard::testing
