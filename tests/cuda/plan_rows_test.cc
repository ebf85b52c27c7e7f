// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/plan_rows_test.cc -- the row plan of the GPU is the CPU's, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

#include "plan/capacity.h"
#include "plan/index.h"
#include "testing/both.h"

namespace switchyard {
namespace {

using testing::Both;
using testing::Buffer;
using testing::CudaBuffer;

constexpr uint64_t kSeed = 20251;

enum class Routing { Distinct, Balanced, Zipf, OneExpert, FirstExperts, EvenExperts, Faulty };
constexpr Routing kRoutings[] = {Routing::Distinct,  Routing::Balanced,     Routing::Zipf,
                                 Routing::OneExpert, Routing::FirstExperts, Routing::EvenExperts,
                                 Routing::Faulty};

// Ids repeat within a token, as no gate has it: a plan must take them all the same. Distinct: they
// do not, where there are as many experts.
int32_t random_id(Routing routing, int64_t experts, int64_t k, std::mt19937_64& rng) {
  const auto any = static_cast<int32_t>(rng() % static_cast<uint64_t>(experts));
  switch (routing) {
    case Routing::Balanced: return any;
    case Routing::Zipf: {
      const double u = static_cast<double>(rng() >> 11) * 0x1p-53;
      return static_cast<int32_t>(std::pow(static_cast<double>(experts), u)) - 1;
    }
    case Routing::OneExpert: return static_cast<int32_t>(experts / 2);
    case Routing::FirstExperts: return static_cast<int32_t>(k % experts);
    case Routing::EvenExperts: return any & ~1;
    case Routing::Distinct:
    case Routing::Faulty: break;
  }
  const int32_t wrong[] = {-1, -1, static_cast<int32_t>(experts), INT32_MIN, INT32_MAX, -2};
  return rng() % 3 == 0 ? wrong[rng() % 6] : any;
}

Buffer<int32_t> make_ids(int64_t rows, int64_t experts, int64_t top_k, Routing routing) {
  Buffer<int32_t> ids({rows, top_k});
  std::mt19937_64 rng(kSeed);
  for (int64_t s = 0; s < ids.count(); ++s) ids[s] = random_id(routing, experts, s % top_k, rng);
  if (routing != Routing::Distinct) return ids;
  for (int64_t t = 0; t < rows; ++t) {
    const auto shift = static_cast<int64_t>(rng() % static_cast<uint64_t>(experts));
    for (int64_t k = 0; k < top_k; ++k)
      ids[t * top_k + k] = rng() % 16 == 0 ? -1 : static_cast<int32_t>((shift + k) % experts);
  }
  return ids;
}

int64_t largest_count(const Buffer<int32_t>& ids, int64_t num_rows, int64_t experts) {
  std::vector<int64_t> counts(static_cast<size_t>(experts));
  const int64_t slots = ids.count() == 0 ? 0 : num_rows * ids.view().dim(1);
  for (int64_t s = 0; s < slots; ++s)
    if (ids[s] >= 0 && ids[s] < experts) ++counts[static_cast<size_t>(ids[s])];
  return *std::max_element(counts.begin(), counts.end());
}

struct PlanCase {
  int64_t experts;
  Layout layout;
  int64_t alignment, capacity;
  bool row_tables;            // slot_of_row and row_expert wanted
  bool from_outside = false;  // all rows count, and bad ids are noted
};

using Tile = std::tuple<int64_t, int32_t, int32_t>;

// All places of a table.
std::vector<Tile> tiles_in(const Buffer<int32_t>& table) {
  EXPECT_TRUE(table.guards_intact()) << "tiles";
  std::vector<RowTile> tiles(static_cast<size_t>(table.view().dim(0)));
  std::memcpy(tiles.data(), table.data(), tiles.size() * sizeof(RowTile));
  std::vector<Tile> all;
  for (const RowTile& t : tiles)
    all.push_back(t.num_rows == 0 ? Tile{} : Tile{t.first_row, t.num_rows, t.expert});
  return all;
}
std::vector<Tile> tiles_of(const Buffer<int32_t>& counts, const Buffer<int64_t>& first_row,
                           int tile_rows, int64_t most) {
  std::vector<Tile> all;
  for (int32_t e = 0; e < static_cast<int32_t>(counts.count()); ++e) {
    const TileSplit split = split_rows(counts[e], tile_rows);
    for (int i = 0; i < split.tiles; ++i)
      all.push_back(
          {first_row[e] + i * split.rows, std::min(split.rows, counts[e] - i * split.rows), e});
  }
  EXPECT_LE(static_cast<int64_t>(all.size()), most);
  all.resize(static_cast<size_t>(most));
  return all;
}

void expect_same_plan(const Buffer<int32_t>& ids, int64_t num_rows, const PlanCase& c,
                      int32_t code_before = 0) {
  const int64_t rows = c.layout == Layout::Masked ? c.experts * c.capacity
                                                  : ids.count() + c.experts * (c.alignment - 1);
  SCOPED_TRACE(::testing::Message()
               << "seed " << kSeed << ", E " << c.experts << ", ids [" << ids.view().dim(0) << ", "
               << ids.view().dim(1) << "], rows " << num_rows << ", "
               << (c.layout == Layout::Masked ? "masked, capacity " : "contiguous, alignment ")
               << (c.layout == Layout::Masked ? c.capacity : c.alignment));
  Both<int32_t> given(ids), count = Both<int32_t>::of({static_cast<int32_t>(num_rows)});
  Both<int32_t> counts({c.experts}), row_of_slot(ids.view().shape), slot_of_row({rows}),
      row_expert({rows}), scratch({kPlanBlocks, c.experts});
  Both<int64_t> first_row({c.experts + 1});
  const int tile_rows = c.experts % 2 == 0 ? 32 : 8;
  const int64_t most = most_tiles(ids.count(), c.experts, tile_rows) + 1;
  CudaBuffer<int32_t> tiles(Shape{most, kRowTileWords});
  auto next_step = Both<int32_t>::of({7});
  auto status = Both<int32_t>::of({code_before, 0, 0, 0, 0});

  testing::run_on_both([&](auto at) {
    return PlanRows{.layout = c.layout,
                    .alignment = c.alignment,
                    .capacity = c.capacity,
                    .groups = {at(counts), at(first_row), at(next_step), tiles.view(), tile_rows},
                    .row_of_slot = at(row_of_slot),
                    .slot_of_row = c.row_tables ? at(slot_of_row) : Tensor{},
                    .row_expert = c.row_tables ? at(row_expert) : Tensor{},
                    .scratch = at(scratch),
                    .ids = at(given),
                    .num_rows = c.from_outside ? Tensor{} : at(count),
                    .notes_bad_ids = c.from_outside,
                    .rank = 3,
                    .status = at(status)};
  });

  EXPECT_EQ(tiles_in(tiles.host()),
            tiles_of(counts.computed(), first_row.computed(), tile_rows, most));
  EXPECT_TRUE(counts.same()) << "counts";
  EXPECT_TRUE(first_row.same()) << "first_row";
  EXPECT_TRUE(next_step.same()) << "next_step";
  EXPECT_TRUE(row_of_slot.same()) << "row_of_slot";
  EXPECT_TRUE(slot_of_row.same()) << "slot_of_row";
  EXPECT_TRUE(row_expert.same()) << "row_expert";
  EXPECT_TRUE(status.same()) << "status";
  EXPECT_TRUE(scratch.computed().guards_intact()) << "scratch";
}

// Buffers of at most 4 MiB per table.
constexpr int64_t kMostRows = int64_t{1} << 20;

void expect_same_plans(int64_t experts, int64_t top_k, int64_t rows, Routing routing) {
  const auto ids = make_ids(rows, experts, top_k, routing);
  const int64_t used = rows - rows / 5;
  expect_same_plan(ids, rows, {experts, Layout::Contiguous, 1, 0, false});
  expect_same_plan(ids, rows, {experts, Layout::Contiguous, 128, 0, true});
  expect_same_plan(ids, used, {experts, Layout::Contiguous, 8, 0, true});
  expect_same_plan(ids, rows, {experts, Layout::Contiguous, 1, 0, true, true});
  const int64_t largest = std::max<int64_t>(1, largest_count(ids, used, experts));
  if (experts * largest > kMostRows) return;
  expect_same_plan(ids, used, {experts, Layout::Masked, 1, largest, true});
  expect_same_plan(ids, used, {experts, Layout::Masked, 1, (largest + 1) / 2, true});
}

TEST(CudaPlanRows, IsTheCpusForFewRowsAndEveryRouting) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 3, 8, 60, 128, 512, 4096})
    for (const int64_t top_k : {1, 2, 8, 10, 16})
      for (const int64_t rows : {0, 1, 3, 127, 128, 129, 400})
        for (const Routing routing : kRoutings) {
          expect_same_plans(experts, top_k, rows, routing);
          if (HasFailure()) return;
        }
}

TEST(CudaPlanRows, IsTheCpusForManyRows) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {1, 3, 8, 60, 128, 512, 1025, 2048, 4096})
    for (const int64_t rows : {1000, 8192})
      for (const int64_t top_k : {8, 10})
        for (const Routing routing : {Routing::Zipf, Routing::OneExpert, Routing::Faulty}) {
          expect_same_plans(experts, top_k, rows, routing);
          if (HasFailure()) return;
        }
}

// More slots than all blocks hold in one tile.
TEST(CudaPlanRows, IsTheCpusWhenABlockHasSeveralTiles) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t experts : {5, 256, 3000})
    for (const Routing routing : {Routing::Balanced, Routing::OneExpert, Routing::Faulty})
      expect_same_plans(experts, 8, 70'001, routing);
}

TEST(CudaPlanRows, AnyAlignmentAndNumberOfRowsWithinTheCapacityWork) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const int64_t capacity : {200, 3000}) {
    const auto ids = make_ids(capacity, 24, 4, Routing::Zipf);
    for (const int64_t rows : {int64_t{0}, int64_t{1}, capacity / 2, capacity - 1, capacity})
      for (const int64_t alignment : {1, 3, 7, 64, 1000})
        expect_same_plan(ids, rows, {24, Layout::Contiguous, alignment, 0, true});
  }
}

TEST(CudaPlanRows, AnErrorThatWasNotedBeforeStays) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto ids = make_ids(64, 4, 2, Routing::OneExpert);
  expect_same_plan(ids, 64, {4, Layout::Masked, 1, 5, true});
  expect_same_plan(ids, 64, {4, Layout::Masked, 1, 5, true}, 2);
}

TEST(CudaPlanRows, ALargeTableOfRowsIsClearedByManyBlocks) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto ids = make_ids(16, 128, 8, Routing::Balanced);
  expect_same_plan(ids, 16, {128, Layout::Masked, 1, 4096, true});
  expect_same_plan(make_ids(0, 128, 8, Routing::Balanced), 0, {128, Layout::Masked, 1, 4096, true});
}

}  // namespace
}  // namespace switchyard
