// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/allocation_test.cc -- memory that runs out while a checkpoint is loaded or written, one
// allocation at a time, is an Error.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "switchyard/checkpoint.h"
#include "switchyard/error.h"
#include "switchyard/safetensors.h"
#include "testing/buffer.h"
#include "testing/counted_new.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::g_allocations;
using testing::g_failing_allocation;
using testing::TemporaryFolder;

constexpr int64_t kHidden = 16, kInner = 8, kExperts = 2;

// One layer, in one file, in shards with an index, or in files without one.
enum class Form { OneFile, Index, Shards };

struct Model {
  explicit Model(Form form) {
    const nlohmann::json config = {
        {"model_type", "mixtral"},       {"architectures", {"MixtralForCausalLM"}},
        {"hidden_size", kHidden},        {"intermediate_size", kInner},
        {"num_local_experts", kExperts}, {"num_experts_per_tok", 1},
        {"num_hidden_layers", 1},        {"hidden_act", "silu"}};
    testing::write_file(folder / "config.json", config.dump());
    const std::string moe = "model.layers.0.block_sparse_moe.";
    const std::vector<NamedTensor> router = {{moe + "gate.weight", wide.view().rows(0, kExperts)}};
    std::vector<NamedTensor> experts;
    for (int e = 0; e < kExperts; ++e)
      for (const char* name : {"w1", "w3", "w2"})
        experts.push_back({moe + "experts." + std::to_string(e) + "." + name + ".weight",
                           *name == 'w' && name[1] == '2' ? std::as_const(tall).view()
                                                          : std::as_const(wide).view()});
    if (form == Form::OneFile) experts.insert(experts.end(), router.begin(), router.end());
    const char* first = form == Form::OneFile ? "model.safetensors" : kFirst;
    write_safetensors(folder / first, experts);
    if (form == Form::OneFile) return;
    write_safetensors(folder / kSecond, router);
    nlohmann::json map;
    for (const auto& t : experts) map[t.name] = kFirst;
    map[router.front().name] = kSecond;
    if (form == Form::Index)
      testing::write_file(folder / "model.safetensors.index.json",
                          nlohmann::json{{"weight_map", map}}.dump());
  }
  static constexpr const char *kFirst = "model-00001-of-00002.safetensors",
                              *kSecond = "model-00002-of-00002.safetensors";

  TemporaryFolder folder;
  Buffer<Bf16> wide = testing::random_bf16({kInner, kHidden}, 1);
  Buffer<Bf16> tall = testing::random_bf16({kHidden, kInner}, 2);
};

// Every allocation of `body` fails once. Those that can be done without may be no error.
void expect_errors(const std::function<void()>& body) {
  body();
  int64_t num_failed = 0, num_errors = 0;
  for (int64_t n = 1;; ++n) {
    g_failing_allocation = g_allocations + n;
    std::string message;
    try {
      body();
    } catch (const Error& e) {
      g_failing_allocation = 0;
      message = e.what();
    } catch (const std::exception& e) {
      ADD_FAILURE() << "allocation " << n << ": " << e.what() << " is no Error";
    }
    const bool failed = g_failing_allocation == 0 || g_allocations >= g_failing_allocation;
    g_failing_allocation = 0;
    if (!failed) break;
    ++num_failed;
    num_errors += !message.empty();
    EXPECT_TRUE(message.empty() || message.find("memory") != std::string::npos)
        << "allocation " << n << ": " << message;
  }
  EXPECT_GT(num_failed, 20);
  EXPECT_GT(num_errors, num_failed * 3 / 4) << "of " << num_failed;
  body();
}

class FailingAllocation : public ::testing::TestWithParam<Form> {};
INSTANTIATE_TEST_SUITE_P(Checkpoints, FailingAllocation,
                         ::testing::Values(Form::OneFile, Form::Index, Form::Shards));

TEST_P(FailingAllocation, IsAnErrorOfTheLoadWhicheverItIs) {
  const Model model(GetParam());
  expect_errors([&] {
    const auto checkpoint = Checkpoint::open(model.folder.path());
    (void)checkpoint->load_layer(0, 1, 0);
  });
}

TEST(FailingAllocation, IsAnErrorOfTheWriterAndLeavesTheOldFile) {
  const TemporaryFolder folder;
  const Buffer<Bf16> rows = testing::random_bf16({4, 8}, 3);
  const std::vector<NamedTensor> tensors = {{"rows", rows.view()}};
  const auto path = folder / "rows.safetensors";
  write_safetensors(path, tensors);
  const std::string whole = testing::read_file(path);
  expect_errors([&] { write_safetensors(path, tensors); });
  EXPECT_EQ(testing::read_file(path), whole);
  int64_t num_entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    num_entries += entry.path() != path;
  EXPECT_EQ(num_entries, 0);
}

}  // namespace
}  // namespace switchyard
