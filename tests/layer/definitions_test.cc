// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/definitions_test.cc -- every family against its public definition. The expected
// output comes from tests/layer/definitions: float64, from the tensors of a synthetic checkpoint,
// as the family's published model code computes it. Nothing of the library takes part in it.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/family_definitions.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::Definition;
using testing::json;
using testing::kHidden;
using testing::kTokens;

class FamilyDefinition : public ::testing::TestWithParam<Definition> {};
INSTANTIATE_TEST_SUITE_P(All, FamilyDefinition, ::testing::ValuesIn(testing::all_definitions()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

// How far each rank's output is from `expected`.
std::vector<Difference> run(const Definition& d, const Checkpoint& checkpoint, int ranks,
                            ConstTensor expected) {
  LayerOptions options;
  options.max_tokens = kTokens;
  options.num_threads = 1;
  std::vector<Difference> differences(static_cast<size_t>(ranks));
  run_local_ranks(ranks, [&](Communicator& comm) {
    const MoeConfig config = checkpoint.config(d.layer);
    auto layer =
        MoeLayer::create(config, checkpoint.load_layer(d.layer, ranks, comm.rank()), comm, options);
    Buffer<Bf16> output({kTokens, kHidden});
    ForwardArgs args{.output = output.view(), .hidden = testing::definition_input().view()};
    if (config.gate.vocabulary > 0) args.token_ids = testing::definition_tokens().view();
    layer->forward(args);
    layer->wait();
    differences[static_cast<size_t>(comm.rank())] = compare(std::as_const(output).view(), expected);
  });
  return differences;
}

TEST_P(FamilyDefinition, MatchesItsPublishedModelCode) {
  const Definition& d = GetParam();
  const auto tensors = testing::make_tensors(d);
  const testing::TemporaryFolder folder;
  testing::write_checkpoint(folder.path(), d, tensors);
  const auto expected = testing::expected_output(d, tensors);

  const auto checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint->stored_format(d.layer), d.stored);
  EXPECT_EQ(checkpoint->module_path(d.layer), d.module);
  for (const int ranks : {1, 2, 4})
    for (const auto& difference : run(d, *checkpoint, ranks, expected.view())) {
      EXPECT_LE(difference.rel_error, 4e-3) << ranks << " ranks";
      EXPECT_LE(difference.max_row_error, 2e-2) << ranks << " ranks, row " << difference.worst_row;
    }
}

// Every model_type of a config, at any depth.
void collect_types(const json& config, std::set<std::string>& types) {
  if (!config.is_object()) return;
  for (const auto& [key, value] : config.items()) {
    if (key == "model_type") types.insert(value.get<std::string>());
    collect_types(value, types);
  }
}

TEST(FamilyDefinitions, CoverEveryFamily) {
  // What text parts are called alone: of inkling_mm_model and of minimax_m3_vl.
  std::set<std::string> types{"inkling", "minimax_m3"};
  for (const Definition& d : testing::all_definitions()) {
    types.insert(d.name.substr(0, d.name.find(' ')));
    collect_types(d.config, types);
  }
  for (const auto& family : known_families()) EXPECT_TRUE(types.contains(family)) << family;
}

}  // namespace
}  // namespace switchyard
