// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/plan_test.cc -- the row plan and the dispatch plan, against a count by hand.
#include <gtest/gtest.h>

#include <map>

#include "base/status.h"
#include "cpu/run.h"
#include "plan/buffers.h"
#include "plan/index.h"
#include "testing/cpu_ops.h"
#include "testing/routing.h"

namespace switchyard::cpu {
namespace {

using testing::Buffer;
using testing::run_plain;
using testing::Skew;

struct Status {
  Status() : words({kStatusWords}) {
    for (int64_t i = 0; i < kStatusWords; ++i) words[i] = 0;
  }
  const StatusWords& get() const { return *words.view().as<StatusWords>(); }
  Buffer<int32_t> words;
};

struct Planned {
  // num_rows -1: all.
  Planned(const Buffer<int32_t>& ids, int64_t num_rows, int64_t experts, Layout layout,
          int64_t alignment_or_capacity, bool notes_bad_ids = false)
      : counts({experts}),
        first_row({experts + 1}),
        row_of_slot(ids.view().shape),
        rows_in_buffer(layout == Layout::Masked
                           ? experts * alignment_or_capacity
                           : ids.count() + experts * (alignment_or_capacity - 1)),
        slot_of_row({rows_in_buffer}),
        row_expert({rows_in_buffer}) {
    Buffer<int32_t> count({1});
    count[0] = static_cast<int32_t>(num_rows);
    const PlanRows plan{.layout = layout,
                        .alignment = alignment_or_capacity,
                        .capacity = alignment_or_capacity,
                        .groups = {counts.view(), first_row.view()},
                        .row_of_slot = row_of_slot.view(),
                        .slot_of_row = slot_of_row.view(),
                        .row_expert = row_expert.view(),
                        .scratch = {},
                        .ids = ids.view(),
                        .num_rows = num_rows < 0 ? ConstTensor{} : count.view(),
                        .notes_bad_ids = notes_bad_ids,
                        .rank = 3,
                        .status = status.words.view()};
    run_plain(plan);
    EXPECT_TRUE(counts.guards_intact() && first_row.guards_intact() &&
                row_of_slot.guards_intact() && slot_of_row.guards_intact() &&
                row_expert.guards_intact());
  }
  Buffer<int32_t> counts;
  Buffer<int64_t> first_row;
  Buffer<int32_t> row_of_slot;
  int64_t rows_in_buffer;
  Buffer<int32_t> slot_of_row, row_expert;
  Status status;
};

// The definition, in another way: walk the slots and append each to its expert's list.
void expect_stable_groups(const Planned& p, const Buffer<int32_t>& ids, int64_t num_rows,
                          int64_t experts, int64_t top_k, Layout layout, int64_t step) {
  std::map<int32_t, std::vector<int32_t>> slots_of;
  for (int64_t s = 0; s < num_rows * top_k; ++s)
    if (ids[s] >= 0 && ids[s] < experts) slots_of[ids[s]].push_back(static_cast<int32_t>(s));
  int64_t first = 0, valid = 0;
  for (int32_t e = 0; e < experts; ++e) {
    const auto& slots = slots_of[e];
    ASSERT_EQ(p.counts[e], static_cast<int32_t>(slots.size()));
    ASSERT_EQ(p.first_row[e], first);
    for (size_t i = 0; i < slots.size(); ++i) {
      const int64_t row = first + static_cast<int64_t>(i);
      EXPECT_EQ(p.slot_of_row[row], slots[i]);
      EXPECT_EQ(p.row_expert[row], e);
      EXPECT_EQ(p.row_of_slot[slots[i]], row);
      ++valid;
    }
    const auto size = static_cast<int64_t>(slots.size());
    first += layout == Layout::Masked ? step : (size + step - 1) / step * step;
  }
  EXPECT_EQ(p.first_row[experts], first);
  int64_t rows = 0, placed = 0;
  for (int64_t r = 0; r < p.rows_in_buffer; ++r) {
    rows += p.slot_of_row[r] != kNoRow;
    EXPECT_EQ(p.slot_of_row[r] == kNoRow, p.row_expert[r] == kNoExpert);
  }
  for (int64_t s = 0; s < p.row_of_slot.count(); ++s) placed += p.row_of_slot[s] != kNoRow;
  EXPECT_EQ(rows, valid);  // padding and everything past the last group: -1
  EXPECT_EQ(placed, valid);
  EXPECT_TRUE(p.status.get().good());
}

TEST(PlanRows, IsAStableSortForEverySkewLayoutAndAlignment) {
  constexpr int64_t kExperts = 6, kTopK = 3, kRows = 41;
  for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                          Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing}) {
    const auto ids = testing::random_ids(kRows, kExperts, kTopK, skew, 5);
    for (const int64_t used : {int64_t{0}, int64_t{1}, kRows - 4, kRows}) {
      for (const int64_t alignment : {1, 3, 8, 128}) {
        const Planned p(ids, used, kExperts, Layout::Contiguous, alignment);
        expect_stable_groups(p, ids, used, kExperts, kTopK, Layout::Contiguous, alignment);
      }
      const Planned p(ids, used, kExperts, Layout::Masked, kRows);
      expect_stable_groups(p, ids, used, kExperts, kTopK, Layout::Masked, kRows);
    }
  }
}

TEST(PlanRows, AnOverflowOfTheMaskedLayoutIsAStatusAndStaysInside) {
  Buffer<int32_t> ids({10, 2});
  for (int64_t i = 0; i < 20; ++i) ids[i] = 1;  // 20 slots of one expert
  const Planned p(ids, 10, 3, Layout::Masked, 10);
  EXPECT_EQ(p.status.get().code, static_cast<int32_t>(Errc::BadRouting));
  EXPECT_EQ(p.status.get().detail, static_cast<int32_t>(StatusDetail::MaskedOverflow));
  EXPECT_EQ(p.status.get().rank, 3);
  EXPECT_EQ(p.status.get().value, 20);
  EXPECT_EQ(p.counts[1], 10);
  for (int64_t s = 0; s < 20; ++s) EXPECT_EQ(p.row_of_slot[s], s < 10 ? 10 + s : kNoRow);
  for (int64_t r = 20; r < 30; ++r) EXPECT_EQ(p.slot_of_row[r], kNoRow) << "a neighbour's row";
}

TEST(PlanRows, WithoutANumberOfRowsAllOfThemCount) {
  const auto ids = testing::random_ids(41, 6, 3, Skew::Zipf, 5);
  const Planned p(ids, -1, 6, Layout::Contiguous, 1);
  expect_stable_groups(p, ids, 41, 6, 3, Layout::Contiguous, 1);
}

TEST(PlanRows, NotesTheFirstBadIdWhereItIsAskedTo) {
  auto ids = testing::random_ids(41, 6, 3, Skew::SomeMissing, 5);
  ids[17] = 6;
  ids[40] = -2;
  EXPECT_TRUE(Planned(ids, 41, 6, Layout::Contiguous, 1).status.get().good());
  const Planned p(ids, 41, 6, Layout::Contiguous, 1, true);
  EXPECT_EQ(p.status.get().code, static_cast<int32_t>(Errc::BadRouting));
  EXPECT_EQ(p.status.get().detail, static_cast<int32_t>(StatusDetail::IdOutOfRange));
  EXPECT_EQ(p.status.get().rank, 3);
  EXPECT_EQ(p.status.get().value, 6);
  EXPECT_EQ(p.row_of_slot[17], kNoRow);
  EXPECT_EQ(p.row_of_slot[40], kNoRow);
  EXPECT_TRUE(Planned(ids, 5, 6, Layout::Contiguous, 1, true).status.get().good())
      << "past the rows";
}

TEST(PlanDispatch, SendsARowOncePerOwningRankInOrder) {
  constexpr int64_t kExperts = 12, kTopK = 4, kTokens = 23;
  for (const int ranks : {1, 2, 3, 4, 6})
    for (const auto skew :
         {Skew::Balanced, Skew::SomeMissing, Skew::FirstHalfOnly, Skew::NoExpert}) {
      const auto ids = testing::random_ids(kTokens, kExperts, kTopK, skew, 8);
      Buffer<int32_t> send_rows({ranks * kTokens}), send_counts({ranks}),
          return_row({kTokens, ranks});
      Status status;
      run_plain(PlanDispatch{send_rows.view(), send_counts.view(), return_row.view(), ids.view(),
                             kExperts, ranks, 0, status.words.view()});
      int32_t next = 0;
      for (int p = 0; p < ranks; ++p) {
        int32_t sent = 0;
        for (int32_t t = 0; t < kTokens; ++t) {
          bool owns = false;
          for (int64_t k = 0; k < kTopK; ++k) {
            const int32_t id = ids[t * kTopK + k];
            owns |= id >= 0 && id / (kExperts / ranks) == p;
          }
          EXPECT_EQ(return_row[t * ranks + p], owns ? next : kNoRow);
          if (!owns) continue;
          EXPECT_EQ(send_rows[next++], t);
          ++sent;
        }
        EXPECT_EQ(send_counts[p], sent);
      }
      EXPECT_TRUE(send_rows.guards_intact() && return_row.guards_intact());
      EXPECT_TRUE(status.get().good());
    }
}

TEST(PlanDispatch, ABadIdIsNotedAndNothingIsSent) {
  auto ids = testing::random_ids(5, 8, 2, Skew::Balanced, 1);
  for (const int32_t bad : {8, -2, INT32_MAX, INT32_MIN}) {
    ids[7] = bad;
    Buffer<int32_t> send_rows({10}), send_counts({2}), return_row({5, 2});
    Status status;
    run_plain(PlanDispatch{send_rows.view(), send_counts.view(), return_row.view(), ids.view(), 8,
                           2, 1, status.words.view()});
    EXPECT_EQ(status.get().detail, static_cast<int32_t>(StatusDetail::IdOutOfRange));
    EXPECT_EQ(status.get().value, bad);
    EXPECT_EQ(status.get().rank, 1);
    EXPECT_EQ(send_counts[0] + send_counts[1], 0);
    for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(return_row[i], kNoRow);
  }
}

TEST(LocalizeIds, KeepsOwnExpertsAndHidesTheRest) {
  Buffer<int32_t> ids({3, 2});
  const int32_t given[] = {0, 3, 4, 7, -1, 5};
  std::copy_n(given, 6, ids.data());
  Buffer<int32_t> local({3, 2}), rows({1});
  rows[0] = 3;
  Status status;
  run_plain(LocalizeIds{local.view(), ids.view(), rows.view(), 4, 2, 8, 0, status.words.view()});
  EXPECT_EQ(local.values(), (std::vector<int32_t>{-1, -1, 0, -1, -1, 1}));
  EXPECT_TRUE(status.get().good());
  rows[0] = 1;
  ids[2] = 99;  // past the rows: not looked at
  Buffer<int32_t> one({3, 2});
  run_plain(LocalizeIds{one.view(), ids.view(), rows.view(), 0, 4, 8, 0, status.words.view()});
  EXPECT_EQ(one[0], 0);
  EXPECT_EQ(one[2], 0x7FFFFFFF) << "rows past the count stay";
  EXPECT_TRUE(status.get().good());
  run_plain(LocalizeIds{one.view(), ids.view(), {}, 0, 4, 8, 2, status.words.view()});
  EXPECT_EQ(status.get().value, 99);
  EXPECT_EQ(status.get().rank, 2);
}

TEST(ResolveIds, TakesBothWidthsAndMarksWhatDoesNotFit) {
  Buffer<int64_t> wide({1, 4});
  const int64_t given[] = {5, -1, int64_t{1} << 32, -(int64_t{1} << 40)};
  std::copy_n(given, 4, wide.data());
  Buffer<int32_t> narrow({1, 4});
  Status status, later;
  run_plain(ResolveIds{narrow.view(), wide.view(), {}, 6, false, 3, status.words.view()});
  EXPECT_EQ(narrow.values(), (std::vector<int32_t>{5, -1, INT32_MIN, INT32_MIN}));
  Buffer<int32_t> again({1, 4});
  run_plain(
      ResolveIds{again.view(), std::as_const(narrow).view(), {}, 5, false, 1, later.words.view()});
  EXPECT_TRUE(testing::same_bits(narrow, again));
  EXPECT_EQ(status.get().seen(), int64_t{1} << 32) << "the first, as it came";
  EXPECT_EQ(status.get().rank, 3);
  EXPECT_EQ(later.get().seen(), 5) << "of those outside [-1, E)";
  Status earlier;
  earlier.words[0] = 7;
  run_plain(ResolveIds{narrow.view(), wide.view(), {}, 6, false, 3, earlier.words.view()});
  EXPECT_EQ(earlier.get().code, 7);
}

TEST(ResolveIds, MapsAndIgnoresWhatItIsTold) {
  Buffer<int32_t> ids({1, 6}), map({7}), dst({1, 6});
  const int32_t given[] = {0, 6, 7, -1, -5, 3}, own[] = {4, -1, 0, 9, 1, 2, 3};
  std::copy_n(given, 6, ids.data());
  std::copy_n(own, 7, map.data());
  Status strict, lenient, unmapped;
  const auto src = std::as_const(ids).view(), to = std::as_const(map).view();
  run_plain(ResolveIds{dst.view(), src, to, 5, false, 2, strict.words.view()});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{4, 3, 7, -1, -5, 9}));
  EXPECT_EQ(strict.get().seen(), 7) << "past the map";
  run_plain(ResolveIds{dst.view(), src, to, 5, true, 2, lenient.words.view()});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{4, 3, -1, -1, -1, -1}));
  EXPECT_TRUE(lenient.get().good());
  run_plain(ResolveIds{dst.view(), src, {}, 5, true, 2, unmapped.words.view()});
  EXPECT_EQ(dst.values(), (std::vector<int32_t>{0, -1, -1, -1, -1, 3}));
  EXPECT_TRUE(unmapped.get().good());
}

// Headers of `ranks` ranks that agree on everything.
Buffer<int32_t> good_headers(int64_t ranks) {
  const int64_t width = kHeaderCounts + ranks;
  Buffer<int32_t> headers({ranks, width});
  for (int64_t i = 0; i < headers.count(); ++i) headers[i] = 0;
  for (int64_t r = 0; r < ranks; ++r) {
    headers[r * width + kHeaderMaxTokens] = 16;
    headers[r * width + kHeaderTokens] = 8;
    for (int64_t d = 0; d < ranks; ++d)
      headers[r * width + kHeaderCounts + d] = static_cast<int32_t>(10 * r + d);
  }
  return headers;
}

TEST(Headers, TheLowestRankWithAnErrorIsNotedEverywhere) {
  auto headers = good_headers(4);
  const int64_t width = kHeaderCounts + 4;
  for (const int64_t r : {1, 3}) {
    headers[r * width] = static_cast<int32_t>(Errc::BadRouting);
    headers[r * width + 1] = static_cast<int32_t>(StatusDetail::IdOutOfRange);
    headers[r * width + 2] = static_cast<int32_t>(r);
    headers[r * width + 3] = static_cast<int32_t>(100 + r);
  }
  Status status;
  status.words[0] = static_cast<int32_t>(Errc::BadRouting);  // what rank 3 noted itself
  status.words[2] = 3;
  run_plain(MergeStatus{status.words.view(), std::as_const(headers).view()});
  EXPECT_EQ(status.get().rank, 1);
  EXPECT_EQ(status.get().value, 101);
}

TEST(Headers, DifferentBoundsAndSlicesAreNamed) {
  const int64_t width = kHeaderCounts + 4;
  auto headers = good_headers(4);
  Status good;
  run_plain(CheckHeaders{good.words.view(), std::as_const(headers).view(), 2});
  EXPECT_TRUE(good.get().good());

  headers[2 * width + kHeaderMaxTokens] = 15;
  Status bounds;
  run_plain(CheckHeaders{bounds.words.view(), std::as_const(headers).view(), 2});
  EXPECT_EQ(bounds.get().detail, static_cast<int32_t>(StatusDetail::MaxTokensDiffer));
  EXPECT_EQ(bounds.get().rank, 2);

  headers = good_headers(4);
  for (const int64_t r : {1, 2, 3}) headers[r * width + kHeaderPlacement] = 1;
  Status tables, placements;
  run_plain(CheckHeaders{tables.words.view(), std::as_const(headers).view(), 1});
  EXPECT_TRUE(tables.get().good()) << "the same contents, in whichever table";
  headers[2 * width + kHeaderPlacement] = 2;
  run_plain(CheckHeaders{placements.words.view(), std::as_const(headers).view(), 1});
  EXPECT_EQ(placements.get().detail, static_cast<int32_t>(StatusDetail::PlacementsDiffer));
  EXPECT_EQ(placements.get().rank, 2);

  headers = good_headers(4);
  headers[3 * width + kHeaderTokens] = 7;
  Status alone, grouped;
  run_plain(CheckHeaders{alone.words.view(), std::as_const(headers).view(), 1});
  EXPECT_TRUE(alone.get().good()) << "ranks on their own may differ";
  run_plain(CheckHeaders{grouped.words.view(), std::as_const(headers).view(), 2});
  EXPECT_EQ(grouped.get().detail, static_cast<int32_t>(StatusDetail::SliceTokensDiffer));
  EXPECT_EQ(grouped.get().rank, 3);
}

TEST(Headers, CountsAreReadTransposedAndZeroAfterAnError) {
  const auto headers = good_headers(3);
  Buffer<int32_t> counts({3, 3}), back({3, 3}), rows({1});
  Status status;
  run_plain(
      ReadCounts{counts.view(), back.view(), rows.view(), headers.view(), 1, status.words.view()});
  EXPECT_EQ(rows[0], 1 + 11 + 21);
  for (int64_t s = 0; s < 3; ++s)
    for (int64_t d = 0; d < 3; ++d) {
      EXPECT_EQ(counts[s * 3 + d], 10 * s + d);
      EXPECT_EQ(back[d * 3 + s], 10 * s + d);
    }
  status.words[0] = static_cast<int32_t>(Errc::BadRouting);
  run_plain(
      ReadCounts{counts.view(), back.view(), rows.view(), headers.view(), 1, status.words.view()});
  EXPECT_EQ(rows[0], 0);
  for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(counts[i] + back[i], 0);
}

}  // namespace
}  // namespace switchyard::cpu
