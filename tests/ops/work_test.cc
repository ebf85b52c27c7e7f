// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/ops/work_test.cc -- what operations say that they move and compute, against counts by hand:
// floors, and so every claim of speed, are made of these.
#include <gtest/gtest.h>

#include <vector>

#include "ops/ops.h"
#include "testing/buffer.h"

namespace switchyard {
namespace {

using testing::Buffer;

std::vector<int32_t> read_here(ConstTensor t) {
  const auto* first = static_cast<const int32_t*>(t.data);
  return {first, first + t.count()};
}

void expect_work(const Work& work, double bytes, double flops = 0, double weight_bytes = 0,
                 double link_bytes = 0) {
  EXPECT_EQ(work.bytes, bytes);
  EXPECT_EQ(work.flops, flops);
  EXPECT_EQ(work.weight_bytes, weight_bytes);
  EXPECT_EQ(work.link_bytes, link_bytes);
}

template <class T>
Buffer<T> filled(const Shape& shape, const std::vector<T>& values) {
  Buffer<T> b(shape);
  for (size_t i = 0; i < values.size(); ++i) b[static_cast<int64_t>(i)] = values[i];
  return b;
}

// A tensor of this shape that nobody reads.
Tensor shaped(DType dtype, const Shape& shape) {
  alignas(64) static std::byte place[64];
  return {place, dtype, shape};
}

constexpr int32_t kNone = kNoRow;

TEST(Work, AGemmReadsTheWeightsOfActiveExpertsAndItsRows) {
  Buffer<int32_t> counts = filled<int32_t>({4}, {3, 0, 2, 0});
  GroupedGemm gemm;
  gemm.dst = shaped(DType::F32, {10, 6});
  gemm.src = shaped(DType::Bf16, {10, 8});
  gemm.weights = shaped(DType::Bf16, {4, 6, 8});
  gemm.groups.counts = counts.view();
  // 2 experts of 6 x 8 in bf16, 5 rows of 8 in bf16 and of 6 in f32.
  expect_work(gemm.work(read_here), 2 * 96 + 5 * 16 + 5 * 24, 2 * 5 * 48, 2 * 96);
}

TEST(Work, QuantisedRowsAreReadAndWrittenOnceWithTheirScales) {
  Buffer<int32_t> num_rows = filled<int32_t>({1}, {3});
  QuantizeRows rows;
  rows.src = shaped(DType::Bf16, {10, 200});
  rows.dst = shaped(DType::F8E4m3, {10, 200});
  rows.scales = shaped(DType::F32, {10, 2});
  expect_work(rows.work(read_here), 10 * (400 + 200 + 8));
  rows.num_rows = num_rows.view();
  expect_work(rows.work(read_here), 3 * (400 + 200 + 8));
  Buffer<int32_t> counts = filled<int32_t>({3}, {4, 0, 1});
  QuantizeActivated activated;
  activated.src = shaped(DType::F32, {10, 400});
  activated.dst = shaped(DType::F8E4m3, {10, 200});
  activated.scales = shaped(DType::F32, {10, 2});
  activated.groups.counts = counts.view();
  expect_work(activated.work(read_here), 5 * (1600 + 200 + 8));
}

TEST(Work, AScaledGemmReadsABytePerNumberAndTheScales) {
  Buffer<int32_t> counts = filled<int32_t>({4}, {3, 0, 2, 0});
  ScaledGemm gemm;
  gemm.dst = shaped(DType::F32, {10, 6});
  gemm.src = shaped(DType::F8E4m3, {10, 256});
  gemm.src_scales = {shaped(DType::F32, {10, 2}), {1, 128}};
  gemm.weights = shaped(DType::F8E4m3, {4, 6, 256});
  gemm.weight_scales = {shaped(DType::F32, {4, 1, 2}), {}};
  gemm.groups.counts = counts.view();
  // 2 experts of 6 x 256 bytes and 2 scales, 5 rows of 256 bytes, 2 scales and 6 sums.
  const double weight_bytes = 2 * (6 * 256 + 8);
  expect_work(gemm.work(read_here), weight_bytes + 5 * (256 + 8 + 24), 2 * 5 * 6 * 256,
              weight_bytes);
}

TEST(Work, ARouterReadsItsWeightsOnce) {
  RouterLogits router;
  router.logits = shaped(DType::F32, {3, 5});
  router.hidden = shaped(DType::Bf16, {3, 16});
  router.weights = shaped(DType::Bf16, {5, 16});
  expect_work(router.work(read_here), 3 * 32 + 5 * 32 + 15 * 4, 2 * 3 * 5 * 16, 5 * 32);
}

TEST(Work, AGemmReadsAreReadOnceAndWrittenPerSlot) {
  Buffer<int32_t> slots = filled<int32_t>({4, 2}, {0, 1, 2, kNone, kNone, kNone, 7, 7});
  Buffer<int32_t> num_rows = filled<int32_t>({1}, {3});
  ScatterRows scatter;
  scatter.dst = shaped(DType::Bf16, {8, 16});
  scatter.src.rows = shaped(DType::Bf16, {4, 16});
  scatter.row_of_slot = slots.view();
  scatter.num_rows = num_rows.view();
  expect_work(scatter.work(read_here), (3 + 3) * 32);
  // Of two ranks with two rows each, rows 0 and 1 are here; row 2 has no slot and does not come.
  scatter.num_rows = {};
  Buffer<int64_t> bases = filled<int64_t>({2}, {0, 0});
  scatter.src.block = 2;
  scatter.src.peers = {bases.view(), nullptr, 0};
  expect_work(scatter.work(read_here), (2 + 1 + 5) * 32, 0, 0, 32);
  scatter.src.peers.rank = 1;
  expect_work(scatter.work(read_here), (1 + 2 + 5) * 32, 0, 0, 2 * 32);
}

TEST(Work, SumsCountTheirTerms) {
  Buffer<int32_t> slots = filled<int32_t>({4, 2}, {0, 1, 2, kNone, kNone, kNone, 3, 4});
  SumRows sum;
  sum.dst = shaped(DType::Bf16, {4, 8});
  sum.sums = {shaped(DType::Bf16, {8, 8}), slots.view(), {}};
  expect_work(sum.work(read_here), 5 * 16 + 4 * 16, 5 * 8);
  sum.sums.weights = shaped(DType::F32, {4, 2});
  sum.addend.rows = shaped(DType::F32, {4, 8});
  expect_work(sum.work(read_here), 5 * 16 + 4 * 16 + 4 * 32, 2 * 5 * 8);
  sum.kept = {false, {1, 2}};  // rows 1 and 2 stay
  expect_work(sum.work(read_here), 4 * 16 + 2 * 16 + 2 * 32, 2 * 4 * 8);
  // A slot is a rank: terms in the second column come from the other one.
  sum.kept = {};
  sum.addend = {};
  Buffer<int64_t> bases = filled<int64_t>({2}, {0, 0});
  sum.peers = {bases.view(), nullptr, 0};
  expect_work(sum.work(read_here), 5 * 16 + 4 * 16, 2 * 5 * 8, 0, 2 * 16);
  // This rank's own term is a sum itself, of three slots.
  Buffer<int32_t> own = filled<int32_t>({4, 2}, {5, kNone, 6, 7, kNone, kNone, kNone, kNone});
  sum.own = {shaped(DType::Bf16, {8, 8}), own.view(), {}};
  expect_work(sum.work(read_here), (2 + 3) * 16 + 4 * 16, 2 * 5 * 8, 0, 2 * 16);
}

TEST(Work, PackedRowsAreThoseOfTheCounts) {
  // counts[s, d]
  Buffer<int32_t> counts = filled<int32_t>({2, 2}, {1, 4, 2, 3});
  PackRows pack;
  pack.src = shaped(DType::Bf16, {8, 4});
  pack.counts = counts.view();
  pack.rank = 1;
  expect_work(pack.work(read_here), 2 * (2 + 3) * 8);
  UnpackRows unpack;
  unpack.dst = shaped(DType::Bf16, {8, 4});
  unpack.counts = counts.view();
  unpack.rank = 1;
  expect_work(unpack.work(read_here), 2 * (4 + 3) * 8);
}

TEST(Work, PushedRowsGoWhereTheRouteSays) {
  // Two tokens on rank 0 of three; rank 0 owns an expert of both, rank 2 one of the second.
  Buffer<int32_t> return_row = filled<int32_t>({2, 3}, {0, kNone, kNone, 1, kNone, 2});
  PushRows push;
  push.window.num_ranks = 3;
  push.rows = shaped(DType::Bf16, {2, 8});
  push.ids = shaped(DType::I32, {2, 2});
  push.weights = shaped(DType::F32, {2, 2});
  push.return_row = return_row.view();
  const double row = 16, slots = 16 + 16, spread = slots * (1 + 3), crossing_slots = slots * 2;
  push.route = PeerRoute::Owners;
  expect_work(push.work(read_here), 2 * row + 3 * row + spread, 0, 0, row + crossing_slots);
  push.route = PeerRoute::Everyone;
  expect_work(push.work(read_here), 2 * row + 6 * row + spread, 0, 0, 4 * row + crossing_slots);
  push.route = PeerRoute::Offered;
  alignas(64) static std::byte window[64];
  const Tensor place(window, DType::Bf16, {2, 8});
  push.dst_rows = place;
  expect_work(push.work(read_here), 2 * row + 2 * row + spread, 0, 0, crossing_slots);
  push.rows = place;  // it lies there already
  expect_work(push.work(read_here), spread, 0, 0, crossing_slots);
  push.route = PeerRoute::Owners;  // codes and scales
  push.rows = shaped(DType::F8E4m3, {2, 8});
  push.rows.add(shaped(DType::F32, {2, 1}));
  expect_work(push.work(read_here), 2 * 12 + 3 * 12 + spread, 0, 0, 12 + crossing_slots);
  push.route = PeerRoute::Nobody;
  expect_work(push.work(read_here), 2 * 16 + 6 * 4);
}

TEST(Work, StatesOfAPrefillAreThoseThatItWrites) {
  // 5 tokens end in blocks of 4: a state at the end of each block and one at the end.
  Buffer<int32_t> starts = filled<int32_t>({4}, {0, 5, 5, 6});
  Buffer<int32_t> prefix = filled<int32_t>({3}, {0, 0, -1});
  ConvPrefillStatesStep states;
  states.step.starts = starts.view();
  states.step.prefix_lengths = prefix.view();
  states.step.map.block_tokens = 4;
  states.step.state = shaped(DType::Bf16, {4, 3, 8});
  const auto written = static_cast<double>(num_prefill_states(0, 5, 4));
  EXPECT_EQ(written, 2);
  expect_work(states.work(read_here), 2 * written * 48);
}

TEST(Work, DeliveredRowsAreReadOnceAndWrittenForEachRankWithTheirSlots) {
  Buffer<int32_t> sent = filled<int32_t>({3}, {4, 1, 2});
  DeliverRows op;
  op.window.rank = 1, op.window.num_ranks = 3;
  op.rows = shaped(DType::Bf16, {5, 8});
  op.ids = shaped(DType::I32, {5, 2});
  op.weights = shaped(DType::F32, {5, 2});
  op.sent = sent.view();
  // 5 rows of 16 bytes; 7 of 16 + 8 + 8, 6 of them for others.
  expect_work(op.work(read_here), 80 + 7 * 32, 0, 0, 6 * 32);
  op.rows = shaped(DType::F8E4m3, {5, 8});  // codes and scales, of 8 and 4 bytes
  op.rows.add(shaped(DType::F32, {5, 1}));
  expect_work(op.work(read_here), 60 + 7 * 28, 0, 0, 6 * 28);
}

TEST(Work, ReturnedRowsAreSumsOfTheirTermsOrTheTermsThemselves) {
  Buffer<int32_t> counts = filled<int32_t>({2}, {1, 2});
  // Rows 0, 3 and 4 came; the others' places hold anything.
  Buffer<int32_t> places = filled<int32_t>({6, 2}, {7, kNone, 0, 0, 0, 0, 5, 6, kNone, 2, 0, 0});
  ReturnRows op;
  op.window.rank = 0, op.window.num_ranks = 2;
  op.sums = {shaped(DType::Bf16, {8, 8}), places.view(), shaped(DType::F32, {6, 2})};
  op.counts = counts.view();
  op.block = 3;
  op.dst = shaped(DType::Bf16, {6, 8});
  // 4 terms and 3 sums of 16 bytes, 2 of them for the other rank; a product and a sum per number.
  expect_work(op.work(read_here), 4 * 16 + 3 * 16, 2 * 4 * 8, 0, 2 * 16);
  op.tokens = shaped(DType::I32, {6});
  expect_work(op.work(read_here), 4 * 16 + 4 * 16, 0, 0, 3 * 16);
  op.tokens = {};
  op.sums.row_of_slot = {};  // partial rows, as they are
  expect_work(op.work(read_here), 3 * 16 + 3 * 16, 0, 0, 2 * 16);
  op.sums = {};
  expect_work(op.work(read_here), 0);
}

TEST(Work, OthersMoveTheirOperands) {
  const Tensor i32 = shaped(DType::I32, {4, 2}), f32 = shaped(DType::F32, {4, 8}),
               bf16 = shaped(DType::Bf16, {4, 8});
  ResolveIds resolve;
  resolve.dst = i32;
  resolve.src = shaped(DType::I64, {4, 2});
  expect_work(resolve.work(read_here), 32 + 64);
  BlockRows blocks;
  blocks.dst = i32;
  expect_work(blocks.work(read_here), 32);
  PlanDispatch plan;
  plan.ids = i32;
  plan.return_row = shaped(DType::I32, {4, 3});
  expect_work(plan.work(read_here), 32 + 2 * 48);
  ReadCounts counts;
  counts.headers = shaped(DType::I32, {2, 7});
  counts.counts = shaped(DType::I32, {2, 2});
  expect_work(counts.work(read_here), 56 + 2 * 16);
  GroupRows group;
  group.row_expert = shaped(DType::I32, {8});
  expect_work(group.work(read_here), 32);
  NormRows norm;
  norm.src = f32;
  norm.dst = bf16;
  norm.inverse = shaped(DType::F32, {4});
  expect_work(norm.work(read_here), 128 + 64 + 16);
  AddRows add;
  add.src = f32;
  add.dst = bf16;
  add.addend.rows = f32;
  expect_work(add.work(read_here), 128 + 128 + 64);
  ArrangeWeights arrange;
  arrange.src = bf16;
  arrange.dst = f32;
  expect_work(arrange.work(read_here), 64 + 128);
  SplitF32 split;
  split.src = f32;
  split.dst = shaped(DType::Bf16, {3, 4, 8});
  expect_work(split.work(read_here), 128 + 192);
  SplitZeroExperts zero;
  zero.ids = i32;
  zero.weights = shaped(DType::F32, {4, 2});
  zero.identity = shaped(DType::F32, {4});
  expect_work(zero.work(read_here), 2 * 32 + 32 + 16);
  MeetPeers meet;
  meet.status = shaped(DType::I32, {5});
  meet.num = 3;
  expect_work(meet.work(read_here), 60);
  PullSlices pull;
  pull.dst = bf16;
  expect_work(pull.work(read_here), 128);
  AwaitRows await;
  await.window.headers = shaped(DType::I32, {2, 7});
  expect_work(await.work(read_here), 56);
  expect_work(NoteEnded{}.work(read_here), 0);
  PlaceSlots place;
  place.ids = i32;
  place.return_row = shaped(DType::I32, {4, 3});
  expect_work(place.work(read_here), 2 * 32 + 48);
}

}  // namespace
}  // namespace switchyard
