// tests/weights/families_test.cc -- every checkpoint there is opens, lists and loads.
#include <gtest/gtest.h>

#include "switchyard/checkpoint.h"
#include "testing/checkpoints.h"

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

}  // namespace
}  // namespace switchyard
