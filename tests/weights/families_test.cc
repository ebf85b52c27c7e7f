// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/weights/families_test.cc -- every checkpoint there is opens, lists and loads.
#include <gtest/gtest.h>

#include <cstring>

#include "switchyard/checkpoint.h"
#include "testing/checkpoints.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

class CheckpointFolders : public ::testing::TestWithParam<std::filesystem::path> {};
INSTANTIATE_TEST_SUITE_P(All, CheckpointFolders, ::testing::ValuesIn(testing::checkpoint_folders()),
                         [](const auto& info) {
                           std::string name = info.param.filename().string();
                           for (char& ch : name)
                             if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
                           return name + "_" + std::to_string(info.index);
                         });

TEST_P(CheckpointFolders, EveryLayerLoadsOnRanksThatTogetherHoldIt) {
  const auto checkpoint = Checkpoint::open(GetParam());
  ASSERT_FALSE(checkpoint->moe_layers().empty());
  const auto io = TensorFile::open(GetParam() / "moe_io.safetensors");
  for (const int64_t layer : checkpoint->moe_layers()) {
    EXPECT_NE(io->find(checkpoint->module_path(layer) + ".input"), nullptr)
        << checkpoint->module_path(layer);
    const MoeConfig config = checkpoint->config(layer);
    EXPECT_FALSE(checkpoint->stored_format(layer).empty());
    for (const int ranks : {1, 2})
      for (int rank = 0; rank < ranks; ++rank)
        EXPECT_NO_THROW(validate(checkpoint->load_layer(layer, ranks, rank), config, ranks))
            << "layer " << layer;
  }
}

// Whether a line of a list names the family, as a word.
bool names_family(const std::string& text, const std::string& row_begins, const std::string& name) {
  for (size_t at = 0; (at = text.find(row_begins, at)) != std::string::npos; ++at) {
    const auto row = text.substr(at, text.find('\n', at + 1) - at);
    for (size_t i = 0; (i = row.find(name, i)) != std::string::npos; ++i) {
      const auto is_word = [&](size_t j) {
        return j < row.size() &&
               (std::isalnum(static_cast<unsigned char>(row[j])) || row[j] == '_');
      };
      if (!is_word(i - 1) && !is_word(i + name.size())) return true;
    }
  }
  return false;
}

TEST(Docs, HaveALineForEveryFamily) {
  const std::filesystem::path root = SWITCHYARD_SOURCE_DIR;
  const auto page = testing::read_file(root / "docs/guide/checkpoints.md");
  for (const auto& family : known_families()) {
    EXPECT_TRUE(names_family(page, "\n- ", family)) << family;
  }
}

// The same weights under other names are the same weights.
TEST(CheckpointFoldersOfOtherForms, HoldTheSameBits) {
  for (const auto& folder : testing::checkpoint_folders()) {
    const std::string name = folder.filename().string();
    const size_t form = name.find("__");
    if (form == std::string::npos) continue;
    const auto other = Checkpoint::open(folder);
    const auto hub = Checkpoint::open(folder.parent_path() / name.substr(0, form));
    for (const int64_t layer : hub->moe_layers()) {
      EXPECT_EQ(other->config(layer), hub->config(layer)) << name;
      const auto a = other->load_layer(layer, 1, 0), b = hub->load_layer(layer, 1, 0);
      for (const auto& [x, y] :
           {std::pair{a.experts.w1, b.experts.w1}, std::pair{a.experts.w2, b.experts.w2},
            std::pair{a.router.weight, b.router.weight},
            std::pair{a.router.correction_bias, b.router.correction_bias},
            std::pair{a.router.token_experts, b.router.token_experts},
            std::pair{a.shared.w1, b.shared.w1}, std::pair{a.shared.w2, b.shared.w2}}) {
        ASSERT_EQ(x.shape, y.shape) << name;
        if (!x.present()) continue;
        EXPECT_EQ(std::memcmp(x.data, y.data, static_cast<size_t>(x.bytes())), 0) << name;
      }
    }
  }
}

}  // namespace
}  // namespace switchyard
