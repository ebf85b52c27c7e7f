// cli/spot_check.h -- a few tokens of a GPU's layer in float64: a fast wrong answer is no result.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing.h"
#include "rows.h"
#include "switchyard/backend.h"
#include "switchyard/weights.h"

namespace switchyard::cli {

// The weights of one rank, and where they are.
struct PlacedWeights {
  const LayerWeights* weights;
  Backend* backend;
};

class SpotCheck {
 public:
  // Copies the experts of a few tokens from the devices of all ranks, in order of rank, and
  // computes these tokens on the host, in about a second.
  SpotCheck(const MoeConfig& config, std::span<const PlacedWeights> ranks, const Rows& hidden,
            const Routing& routing);

  // Relative L2 error of these tokens' rows of `output`, which is on the device.
  double rel_error(ConstTensor output, Backend& backend) const;

 private:
  std::vector<int64_t> tokens_;
  std::vector<double> expected_;  // [tokens, H]
};

}  // namespace switchyard::cli
