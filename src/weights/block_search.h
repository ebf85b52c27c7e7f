// src/weights/block_search.h -- where a checkpoint has its MoE blocks: behind which prefix of
// `layers.N`, and under which of a family's forms of names.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "weights/checkpoint_files.h"
#include "weights/family.h"

namespace switchyard {

struct FoundBlock {
  std::string prefix;
  size_t form = 0;
  std::string router;  // its whole name
};

class BlockSearch {
 public:
  BlockSearch() = default;
  // Looks at every name once.
  BlockSearch(const CheckpointFiles& files, const FamilyLayers& family);

  // Null when the file has no router for this layer. Throws Error(BadFile) that lists the
  // candidates when there are several.
  const FoundBlock* find(int64_t layer) const;

 private:
  std::map<int64_t, std::vector<FoundBlock>> blocks_;
};

}  // namespace switchyard
