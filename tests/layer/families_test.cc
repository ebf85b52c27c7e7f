// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/families_test.cc -- every MoE layer of every checkpoint, over ranks and strategies,
// against its float64 output.
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <mutex>

#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/buffer.h"
#include "testing/checkpoints.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::OracleCase;

// Rank r's consecutive tokens; uneven, and none for the last rank when there are four.
struct Share {
  int64_t begin, size;
};
Share share_of(int64_t num_tokens, int rank, int num_ranks) {
  const int64_t parts = num_ranks == 4 ? 3 : num_ranks;
  if (rank >= parts) return {num_tokens, 0};
  const int64_t begin = num_tokens * rank / parts;
  return {begin, num_tokens * (rank + 1) / parts - begin};
}

Buffer<Bf16> run(const OracleCase& c, int num_ranks, const std::string& strategy, int tp_size = 1) {
  Buffer<Bf16> out(c.expected().shape);
  const auto copy = c.input();
  const ConstTensor input = copy.view();
  run_local_ranks(num_ranks, [&](Communicator& comm) {
    const auto share = share_of(input.dim(0), comm.rank() / tp_size, num_ranks / tp_size);
    LayerOptions options;
    options.max_tokens = input.dim(0);
    options.strategy = strategy;
    options.tp_size = tp_size;
    options.num_threads = 1;
    auto layer =
        MoeLayer::create(c.checkpoint->config(c.layer),
                         c.checkpoint->load_layer(c.layer, num_ranks, comm.rank()), comm, options);
    // Ranks of one tensor-parallel group compute the same rows; one of them keeps them.
    Buffer<Bf16> own({share.size, input.dim(1)});
    const Tensor target =
        comm.rank() % tp_size == 0 ? out.view().rows(share.begin, share.size) : own.view();
    ForwardArgs args{.output = target, .hidden = input.rows(share.begin, share.size)};
    if (c.token_ids().present()) args.token_ids = c.token_ids().rows(share.begin, share.size);
    layer->forward(args);
    layer->wait();
  });
  EXPECT_TRUE(out.guards_intact());
  return out;
}

class Families : public ::testing::TestWithParam<size_t> {
 protected:
  const OracleCase& oracle_case() const { return testing::shared_oracle_cases()[GetParam()]; }
};
INSTANTIATE_TEST_SUITE_P(All, Families,
                         ::testing::Range<size_t>(0, testing::shared_oracle_cases().size()),
                         [](const auto& info) { return testing::oracle_test_name(info.param); });

// 4e-3: transformers' own bf16 stands at 4.5e-3 to 5e-3 on these.
void expect_close(const Buffer<Bf16>& out, const OracleCase& c, const std::string& what) {
  const auto d = compare(out.view(), c.expected());
  EXPECT_LE(d.rel_error, 4e-3) << c.name << ", " << what;
  EXPECT_LE(d.max_row_error, 2e-2) << c.name << ", " << what << ", row " << d.worst_row;
  ::testing::Test::RecordProperty(what, std::to_string(d.rel_error));
}

TEST_P(Families, StayWithinFourThousandthsAndLayoutsAgreeToTheBit) {
  const auto& c = oracle_case();
  for (const int num_ranks : {1, 2, 4}) {
    std::map<std::string, Buffer<Bf16>> outputs;
    for (const std::string strategy : {"contiguous", "masked", "hybrid"}) {
      const auto out = run(c, num_ranks, strategy);
      expect_close(out, c, std::to_string(num_ranks) + "_ranks_" + strategy);
      outputs.emplace(strategy, out);
    }
    EXPECT_TRUE(same_bits(run(c, num_ranks, "hybrid"), outputs["hybrid"]))
        << c.name << ": a second run differs";
    EXPECT_TRUE(same_bits(outputs["masked"], outputs["contiguous"]))
        << c.name << ", " << num_ranks << " ranks";
    EXPECT_TRUE(same_bits(outputs["hybrid"], outputs["contiguous"]))
        << c.name << ", " << num_ranks << " ranks";
  }
}

TEST_P(Families, OtherDispatchersGiveTheBitsOfTheNormalOne) {
  const auto& c = oracle_case();
  const auto normal = run(c, 2, "normal+contiguous");
  EXPECT_TRUE(same_bits(run(c, 2, "all_gather+masked"), normal)) << c.name;
  EXPECT_TRUE(same_bits(run(c, 2, "local+contiguous", 2), normal)) << c.name << ", tp = P";
  EXPECT_TRUE(same_bits(run(c, 4, "normal+hybrid", 2), run(c, 4, "all_gather+contiguous")))
      << c.name << ", tp = 2";
}

}  // namespace
}  // namespace switchyard
