// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/low_latency_test.cc -- layers over low latency: the bits of normal where owners sum,
// those of one rank where the tokens' ranks do; every executor, and what few models have.
#include <gtest/gtest.h>

#include "layer/rank_outputs.h"
#include "testing/forked_ranks.h"
#include "testing/layer_features.h"

namespace switchyard::testing {
namespace {

using Bits = std::vector<uint16_t>;

// 11 + 5 g tokens of group g; of group 1 none.
int64_t tokens_of(int group) {
  return group == 1 ? 0 : 11 + 5 * group;
}

// Outputs of a group's tokens by this rank, in whatever dtype they have.
Bits outputs(const MoeConfig& c, Communicator& comm, const LayerOptions& options, int group,
             bool fp8 = false) {
  const int64_t tokens = tokens_of(group);
  auto weights = random_weights(c, comm.size(), comm.rank(), 9);
  if (fp8) weights = f8_weights(weights, {64, 128}, {128, 128});
  const auto layer = MoeLayer::create(c, weights, comm, options);
  const auto hidden = random_bf16({tokens, c.hidden}, static_cast<uint64_t>(group));
  const auto ids = token_ids_for(c, tokens, static_cast<uint64_t>(group) + 50);
  const bool f32 = c.f32_sums;
  Buffer<float> wide({f32 ? tokens : 0, c.hidden});
  Buffer<Bf16> narrow({f32 ? 0 : tokens, c.hidden});
  layer->forward({.output = f32 ? wide.view() : narrow.view(),
                  .hidden = hidden.view(),
                  .token_ids = c.gate.vocabulary > 0 ? ids.view() : ConstTensor()});
  layer->wait();
  const auto* words = static_cast<const uint16_t*>(f32 ? wide.view().data : narrow.view().data);
  return {words, words + tokens * c.hidden * (f32 ? 2 : 1)};
}

LayerOptions options_of(const std::string& strategy, int tp_size, bool sums_at_source) {
  LayerOptions o;
  o.max_tokens = 64;
  o.strategy = strategy;
  o.tp_size = tp_size;
  o.masked_max_tokens = 40;
  o.sums_at_source = sums_at_source;
  o.num_threads = 1;
  o.poison_workspace = true;
  return o;
}

// By group.
std::vector<Bits> over_ranks(const MoeConfig& c, int num_ranks, const std::string& strategy,
                             bool sums_at_source = false, int tp_size = 1) {
  std::vector<Bits> all(static_cast<size_t>(num_ranks));
  run_local_ranks(num_ranks, [&](Communicator& comm) {
    all[static_cast<size_t>(comm.rank())] =
        outputs(c, comm, options_of(strategy, tp_size, sums_at_source), comm.rank() / tp_size);
  });
  std::vector<Bits> groups;
  for (size_t r = 0; r < all.size(); r += static_cast<size_t>(tp_size)) {
    for (size_t i = 0; i < static_cast<size_t>(tp_size); ++i) EXPECT_EQ(all[r + i], all[r]);
    groups.push_back(all[r]);
  }
  return groups;
}

std::vector<Bits> on_one_rank(const MoeConfig& c, int num_groups) {
  std::vector<Bits> all;
  for (int g = 0; g < num_groups; ++g)
    run_local_ranks(1, [&](Communicator& comm) {
      all.push_back(outputs(c, comm, options_of("contiguous", 1, false), g));
    });
  return all;
}

class LowLatencyLayer : public ::testing::TestWithParam<LayerFeature> {};
std::vector<LayerFeature> features() {
  auto all = layer_features();
  all.push_back({"plain", plain_layer()});
  all.push_back({"shared_experts", transport_config()});
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, LowLatencyLayer, ::testing::ValuesIn(features()),
                         [](const auto& info) { return info.param.name; });

TEST_P(LowLatencyLayer, GivesTheBitsOfNormalOrOfOneRank) {
  const MoeConfig& c = GetParam().config;
  for (const int num_ranks : {2, 3}) {
    const auto normal = over_ranks(c, num_ranks, "normal+contiguous");
    const auto one = on_one_rank(c, num_ranks);
    for (const char* executor : {"contiguous", "masked", "hybrid"}) {
      const auto name = std::string("low_latency+") + executor;
      EXPECT_EQ(over_ranks(c, num_ranks, name), normal) << name << ", " << num_ranks << " ranks";
      EXPECT_EQ(over_ranks(c, num_ranks, name, true), one) << name << ", " << num_ranks << " ranks";
    }
  }
  EXPECT_EQ(over_ranks(c, 4, "low_latency+masked", false, 2),
            over_ranks(c, 4, "normal+contiguous", false, 2));
  EXPECT_EQ(over_ranks(c, 4, "low_latency+masked", true, 2), on_one_rank(c, 2));
}

// Of experts in fp8, rank after rank.
Bits fp8_outputs(const MoeConfig& c, int num_ranks, const LayerOptions& options) {
  std::vector<Bits> each(static_cast<size_t>(num_ranks));
  run_local_ranks(num_ranks, [&](Communicator& comm) {
    each[static_cast<size_t>(comm.rank())] = outputs(c, comm, options, comm.rank(), true);
  });
  Bits all;
  for (const Bits& bits : each) all.insert(all.end(), bits.begin(), bits.end());
  return all;
}

TEST(LowLatencyLayers, RowsOfFp8ExpertsGiveTheBitsOfNormalOrOfOneRankWhateverTheyTravelAs) {
  MoeConfig c = transport_config();
  c.hidden = 264;  // a group that ends inside a row
  for (const int num_ranks : {2, 4}) {
    const Bits normal = fp8_outputs(c, num_ranks, options_of("normal+contiguous", 1, false));
    Bits one;
    for (int g = 0; g < num_ranks; ++g)
      run_local_ranks(1, [&](Communicator& comm) {
        const Bits bits = outputs(c, comm, options_of("contiguous", 1, false), g, true);
        one.insert(one.end(), bits.begin(), bits.end());
      });
    for (const bool at_source : {false, true})
      for (const bool fp8_rows : {true, false})
        for (const bool over_windows : {false, true}) {
          LayerOptions options = options_of("low_latency+masked", 1, at_source);
          options.fp8_rows = fp8_rows;
          // What brings threads of a CPU into each other's memory.
          if (over_windows) options.lost_rank_timeout = std::chrono::seconds(60);
          EXPECT_EQ(fp8_outputs(c, num_ranks, options), at_source ? one : normal)
              << num_ranks << " ranks" << (at_source ? ", at source" : "")
              << (fp8_rows ? ", rows in fp8" : "") << (over_windows ? ", over windows" : "");
        }
  }
}

TEST(LowLatencyLayers, ProcessesGiveTheBitsOfOneRank) {
  constexpr int kRanks = 3;
  const MoeConfig c = transport_config();
  const auto one = on_one_rank(c, kRanks);
  const SharedGather gather;
  SharedArray<char> same(kRanks);
  ForkedRanks children(kRanks, [&](int rank) {
    const auto comm = make_process_rank(rank, kRanks, gather.of(rank, kRanks));
    same[static_cast<size_t>(rank)] =
        outputs(c, *comm, options_of("no_quant_ep_low_latency", 1, true), rank) ==
        one[static_cast<size_t>(rank)];
  });
  for (int r = 0; r < kRanks; ++r)
    EXPECT_TRUE(children.finished(r) && same[static_cast<size_t>(r)]) << "rank " << r;
}

}  // namespace
}  // namespace switchyard::testing
