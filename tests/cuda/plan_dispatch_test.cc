// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/plan_dispatch_test.cc -- who gets which row, and what the ranks' headers say: the
// GPU's answers are the CPU's, bit for bit.
#include <gtest/gtest.h>

#include "base/status.h"
#include "plan/buffers.h"
#include "testing/both.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::good_status;
using testing::run_on_both;
using testing::Skew;

constexpr uint64_t kSeed = 20253;

void expect_same_dispatch(const Buffer<int32_t>& ids, int64_t experts, int ranks,
                          Both<int32_t> status = good_status()) {
  const int64_t tokens = ids.view().dim(0);
  SCOPED_TRACE(::testing::Message() << "seed " << kSeed << ", E " << experts << ", ranks " << ranks
                                    << ", ids [" << tokens << ", " << ids.view().dim(1) << "]");
  Both<int32_t> given(ids), send_rows({ranks * tokens}), send_counts({ranks}),
      return_row({tokens, ranks});
  run_on_both([&](auto at) {
    return PlanDispatch{
        at(send_rows), at(send_counts), at(return_row), at(given), experts, ranks, 1, at(status)};
  });
  EXPECT_TRUE(send_counts.same()) << "send_counts";
  EXPECT_TRUE(return_row.same()) << "return_row";
  EXPECT_TRUE(send_rows.same()) << "send_rows";
  EXPECT_TRUE(status.same()) << "status";
}

TEST(CudaPlanDispatch, SendsTheCpusRowsForEveryRouting) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::FirstHalfOnly,
                          Skew::NoExpert, Skew::SomeMissing})
    for (const int64_t tokens : {0, 1, 3, 127, 128, 129, 1000})
      for (const int64_t top_k : {1, 2, 8, 10}) {
        const auto ids = testing::random_ids(tokens, 96, top_k, skew, kSeed);
        for (const int ranks : {1, 2, 3, 8, 48, 96}) expect_same_dispatch(ids, 96, ranks);
        if (HasFailure()) return;
      }
}

TEST(CudaPlanDispatch, SendsTheCpusRowsOfManyTokens) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto ids = testing::random_ids(8192, 64, 8, Skew::SomeMissing, kSeed);
  for (const int ranks : {1, 4, 8, 64}) expect_same_dispatch(ids, 64, ranks);
}

TEST(CudaPlanDispatch, TheFirstBadIdIsNotedAndNothingIsSent) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {5, 129, 3000})
    for (const int32_t bad : {64, -2, INT32_MAX, INT32_MIN}) {
      auto ids = testing::random_ids(tokens, 64, 8, Skew::Balanced, kSeed);
      // The first of several, in different blocks.
      ids[tokens * 8 / 3] = bad;
      ids[tokens * 8 / 3 + 1] = 65;
      ids[tokens * 8 - 1] = 66;
      for (const int ranks : {1, 8, 64}) expect_same_dispatch(ids, 64, ranks);
    }
}

TEST(CudaPlanDispatch, NothingIsSentAfterAnEarlierError) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  auto ids = testing::random_ids(700, 64, 8, Skew::Balanced, kSeed);
  expect_same_dispatch(ids, 64, 8, Both<int32_t>::of({3, 3, 0, 0, 0}));
  ids[9] = 99;
  expect_same_dispatch(ids, 64, 8, Both<int32_t>::of({3, 3, 0, 0, 0}));
}

TEST(CudaLocalizeIds, GivesTheCpusIdsAndNotesTheFirstBadOne) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t rows : {0, 1, 129, 5000})
    for (const int mode : {0, 1, 2, 3, 4}) {
      SCOPED_TRACE(::testing::Message() << "seed " << kSeed << ", rows " << rows << ", " << mode);
      auto ids = testing::random_ids(rows, 64, 8, Skew::SomeMissing, kSeed);
      if (mode >= 2)
        for (int64_t s = rows * 4; s < rows * 8; s += 97) ids[s] = static_cast<int32_t>(64 + s);
      const bool counted = mode % 2 == 0;  // else all rows
      Both<int32_t> src(ids), dst({rows, 8});
      // In mode 4 the bad ids stand past the rows.
      auto count =
          Both<int32_t>::of({static_cast<int32_t>(mode == 4 ? rows / 2 : rows - rows / 7)});
      auto status = good_status();
      run_on_both([&](auto at) {
        return LocalizeIds{at(dst), at(src),   counted ? at(count) : Tensor{}, 16, 16, 64,
                           2,       at(status)};
      });
      EXPECT_TRUE(dst.same());
      EXPECT_TRUE(status.same());
    }
}

TEST(CudaResolveIds, TakesBothWidthsAndMarksWhatDoesNotFit) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Buffer<int64_t> ids({300, 3});
  for (int64_t i = 0; i < ids.count(); ++i)
    ids[i] = i % 5 == 0 ? (i % 2 ? int64_t{1} : int64_t{-1}) << 40 : i - 10;
  Both<int64_t> wide(ids);
  Both<int32_t> narrow({300, 3}), again({300, 3});
  auto status = good_status(), later = good_status();
  run_on_both(
      [&](auto at) { return ResolveIds{at(narrow), at(wide), {}, 64, false, 2, at(status)}; });
  EXPECT_TRUE(narrow.same());
  EXPECT_TRUE(status.same());
  run_on_both(
      [&](auto at) { return ResolveIds{at(again), at(narrow), {}, 64, false, 2, at(later)}; });
  EXPECT_TRUE(again.same());
  EXPECT_TRUE(later.same());
}

TEST(CudaResolveIds, TheFirstBadIdIsNotedAsItCame) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t first : {0, 255, 256, 5000, 8999})
    for (const int64_t bad :
         {int64_t{64}, int64_t{-2}, int64_t{1} << 32, -(int64_t{1} << 40), INT64_MIN, INT64_MAX}) {
      Buffer<int64_t> ids({3000, 3});
      for (int64_t i = 0; i < ids.count(); ++i)
        ids[i] = i > first && i % 7 == 0 ? 1000 + i : i % 64;
      ids[first] = bad;
      Both<int64_t> wide(ids);
      Both<int32_t> narrow({3000, 3});
      for (const int32_t code : {0, 3}) {
        auto status = Both<int32_t>::of({code, 0, 0, 0, 0});
        run_on_both([&](auto at) {
          return ResolveIds{at(narrow), at(wide), {}, 64, false, 2, at(status)};
        });
        EXPECT_TRUE(narrow.same());
        EXPECT_TRUE(status.same()) << first << ", " << bad;
        if (code == 0) {
          EXPECT_EQ(status.cpu().as<StatusWords>()->seen(), bad);
        }
      }
    }
}

TEST(CudaResolveIds, MapsAndIgnoresWhatItIsTold) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  Buffer<int64_t> ids({3000, 3});
  Buffer<int32_t> map({300});
  for (int64_t i = 0; i < ids.count(); ++i) ids[i] = (i * 7919) % 310 - 5;  // -5 to 304
  for (int64_t g = 0; g < 300; ++g) map[g] = static_cast<int32_t>(g % 9 == 0 ? -1 : g % 64);
  for (const bool faulty : {false, true}) {
    if (faulty) map[77] = 64;
    Both<int64_t> wide(ids);
    Both<int32_t> own(map), narrow({3000, 3}), mapped({3000, 3});
    for (const bool ignores : {false, true}) {
      auto status = good_status(), later = good_status();
      run_on_both([&](auto at) {
        return ResolveIds{at(mapped), at(wide), at(own), 64, ignores, 2, at(status)};
      });
      EXPECT_TRUE(mapped.same());
      EXPECT_TRUE(status.same());
      run_on_both(
          [&](auto at) { return ResolveIds{at(narrow), at(wide), {}, 64, ignores, 2, at(later)}; });
      EXPECT_TRUE(narrow.same());
      EXPECT_TRUE(later.same());
    }
  }
}

constexpr int64_t kRanks[] = {1, 2, 8, 31, 32, 33, 64, 70};

// Headers of ranks that agree on everything.
Buffer<int32_t> good_headers(int64_t ranks) {
  const int64_t width = kHeaderCounts + ranks;
  Buffer<int32_t> headers({ranks, width});
  for (int64_t r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < kStatusWords; ++i) headers[r * width + i] = 0;
    headers[r * width + kHeaderMaxTokens] = 16;
    headers[r * width + kHeaderPlacement] = static_cast<int32_t>(32 + r % 2);
    headers[r * width + kHeaderTokens] = 8;
    for (int64_t d = 0; d < ranks; ++d)
      headers[r * width + kHeaderCounts + d] = static_cast<int32_t>(100 * r + d);
  }
  return headers;
}

void set_error(Buffer<int32_t>& headers, int64_t rank) {
  int32_t* header = headers.data() + rank * headers.view().dim(1);
  header[0] = static_cast<int32_t>(Errc::BadRouting);
  header[1] = static_cast<int32_t>(StatusDetail::IdOutOfRange);
  header[2] = static_cast<int32_t>(rank);
  header[3] = static_cast<int32_t>(100 + rank);
  header[4] = static_cast<int32_t>(7 + rank);
}

void expect_same_verdict(const Buffer<int32_t>& given, int tp_size) {
  SCOPED_TRACE(::testing::Message() << given.view().dim(0) << " ranks, tp " << tp_size);
  Both<int32_t> headers(given), merged = Both<int32_t>::of({1, 2, 3, 4, 5}),
                                checked = Both<int32_t>::of({1, 2, 3, 4, 5});
  run_on_both([&](auto at) { return MergeStatus{at(merged), at(headers)}; });
  EXPECT_TRUE(merged.same()) << "merge_status";
  run_on_both([&](auto at) { return CheckHeaders{at(checked), at(headers), tp_size}; });
  EXPECT_TRUE(checked.same()) << "check_headers";
}

TEST(CudaHeaders, ErrorsAndDifferencesAreNotedAsOnTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t ranks : kRanks) {
    const int64_t width = kHeaderCounts + ranks;
    const int tp = ranks % 2 == 0 ? 2 : 1;
    expect_same_verdict(good_headers(ranks), tp);
    for (const int64_t r : {int64_t{0}, ranks / 2, ranks - 1}) {
      auto tokens = good_headers(ranks);
      tokens[r * width + kHeaderTokens] = 7;
      expect_same_verdict(tokens, tp);
      expect_same_verdict(tokens, 1);
      auto placement = tokens;
      placement[r * width + kHeaderPlacement] = 35;
      expect_same_verdict(placement, tp);
      auto bounds = placement;
      bounds[r * width + kHeaderMaxTokens] = 15;
      expect_same_verdict(bounds, tp);
      auto error = bounds;
      set_error(error, r);
      set_error(error, ranks - 1);
      expect_same_verdict(error, tp);
    }
  }
}

TEST(CudaHeaders, CountsAreReadTransposedAndZeroAfterAnError) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t ranks : kRanks)
    for (const int32_t code : {0, 2}) {
      Both<int32_t> headers(good_headers(ranks)), counts({ranks, ranks}), back({ranks, ranks}),
          rows({1}), status = Both<int32_t>::of({code, 0, 0, 0, 0});
      const int rank = static_cast<int>(ranks / 2);
      run_on_both([&](auto at) {
        return ReadCounts{at(counts), at(back), at(rows), at(headers), rank, at(status)};
      });
      EXPECT_TRUE(counts.same() && back.same() && rows.same()) << ranks << " ranks, code " << code;
    }
}

TEST(CudaBlockRows, CountsRanksInSteps) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t tokens : {0, 1, 1000}) {
    Both<int32_t> rows({tokens, 6});
    run_on_both([&](auto at) { return BlockRows{at(rows), 1003}; });
    EXPECT_TRUE(rows.same());
  }
}

}  // namespace
}  // namespace switchyard
