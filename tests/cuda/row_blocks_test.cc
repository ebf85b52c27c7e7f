// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/row_blocks_test.cc -- rows into blocks and out of them: the GPU's bytes are the CPU's,
// the ones that nobody writes included.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "device/memory.h"
#include "testing/both.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::cuda_ops;
using testing::run_on_both;

// counts[s, d] in [0, block], some of them 0.
Buffer<int32_t> random_counts(int64_t ranks, int64_t block, uint64_t seed) {
  Buffer<int32_t> counts({ranks, ranks});
  std::mt19937_64 rng(seed);
  for (int64_t i = 0; i < counts.count(); ++i)
    counts[i] = rng() % 4 == 0 ? 0 : static_cast<int32_t>(rng() % static_cast<uint64_t>(block + 1));
  return counts;
}

template <class T>
Buffer<T> numbered(Shape shape, int first) {
  Buffer<T> b(shape);
  for (int64_t i = 0; i < b.count(); ++i)
    b[i] = static_cast<T>(static_cast<float>(first + i % 999));
  return b;
}

template <class T>
void expect_same(int64_t ranks, int64_t block, int64_t width, uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << ranks << " ranks, blocks of " << block << " rows of "
                                    << width << " x " << sizeof(T) << " bytes, seed " << seed);
  const int rank = static_cast<int>(ranks / 2);
  const auto given = random_counts(ranks, block, seed);
  int64_t num_sent = 0;
  for (int64_t d = 0; d < ranks; ++d) num_sent += given[rank * ranks + d];
  Both<int32_t> counts(given);
  Both<T> tokens(numbered<T>({block + 1, width}, 1)),
      in_order(numbered<T>({ranks * block, width}, 2));
  Buffer<int32_t> list({ranks * block});
  std::mt19937_64 rng(seed);
  for (int64_t i = 0; i < list.count(); ++i)
    list[i] = static_cast<int32_t>(rng() % static_cast<uint64_t>(block + 1));
  Both<int32_t> rows(list);

  Both<T> packed({ranks * block, width}), straight({ranks * block, width}),
      compact({ranks * block, width});
  run_on_both(
      [&](auto at) { return PackRows{at(packed), at(tokens), at(rows), at(counts), rank, block}; });
  EXPECT_TRUE(packed.same()) << "pack_rows of a list";
  run_on_both(
      [&](auto at) { return PackRows{at(straight), at(in_order), {}, at(counts), rank, block}; });
  EXPECT_TRUE(straight.same()) << "pack_rows in order";
  run_on_both(
      [&](auto at) { return PackRows{at(compact), at(tokens), at(rows), at(counts), rank, 0}; });
  EXPECT_TRUE(compact.same()) << "pack_rows without gaps, " << num_sent << " rows";

  Both<T> came(numbered<T>({ranks * block, width}, 3)), out({ranks * block, width});
  run_on_both(
      [&](auto at) { return UnpackRows{at(out), at(came), at(packed), at(counts), rank, block}; });
  EXPECT_TRUE(out.same()) << "unpack_rows";
}

TEST(CudaRowBlocks, GiveTheCpusBytesForEveryNumberOfRanksAndWidth) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  uint64_t seed = 1;
  for (const int64_t ranks : {1, 2, 3, 8, 31, 32, 33, 70})
    for (const int64_t block : {1, 7, 64}) {
      for (const int64_t hidden : {8, 64, 200, 2048, 7168}) {
        if (ranks > 8 && hidden > 200) continue;
        expect_same<Bf16>(ranks, block, hidden, seed++);
      }
      for (const int64_t top_k : {1, 2, 3, 8, 10})
        expect_same<int32_t>(ranks, block, top_k, seed++);
      expect_same<float>(ranks, block, 6, seed++);
      if (HasFailure()) return;
    }
}

TEST(CudaRowBlocks, GiveTheCpusBytesOfManyRows) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  expect_same<Bf16>(8, 4096, 256, 5);
  expect_same<int32_t>(8, 4096, 8, 6);
}

// A slice of somebody's ids begins anywhere.
TEST(CudaRowBlocks, RowsThatBeginBetweenVectorsAreTakenByWords) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Both<int32_t> counts = Both<int32_t>::of({5, 4, 3, 2}), all(numbered<int32_t>({20 * 4 + 1}, 1)),
                out({10, 4});
  const auto shifted = [](Tensor t) {
    t = t.rows(1, 20 * 4);
    t.shape = {20, 4};
    return t;
  };
  const auto square = [](Tensor t) {
    t.shape = {2, 2};
    return t;
  };
  run_on_both(
      [&](auto at) { return PackRows{at(out), shifted(at(all)), {}, square(at(counts)), 0, 5}; });
  EXPECT_TRUE(out.same());
}

TEST(CudaRowBlocks, NoRowsMoveNothing) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Buffer<int32_t> zeros({2, 2});
  std::fill_n(zeros.data(), 4, 0);
  Both<int32_t> none(zeros);
  Both<Bf16> src({4, 8}), dst({4, 8}), own({4, 8});
  cuda_ops().run(PackRows{dst.gpu(), src.gpu(), {}, none.gpu(), 0, 2}, nullptr);
  cuda_ops().run(UnpackRows{dst.gpu(), src.gpu(), own.gpu(), none.gpu(), 1, 2}, nullptr);
  EXPECT_TRUE(dst.same());
}

TEST(CudaNoteEnded, SaysThatAPeerIsLostOnceTheHostSetTheWord) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto word = testing::cuda_backend().memory().shared_word();
  for (const int32_t ended : {0, 1}) {
    *word = ended;
    auto status = Both<int32_t>::of({4, 3, 2, 1, 5});
    run_on_both([&](auto at) { return NoteEnded{at(status), word.get(), 3}; });
    EXPECT_TRUE(status.same()) << ended;
  }
}

}  // namespace
}  // namespace switchyard
