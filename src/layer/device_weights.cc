// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/device_weights.cc -- random weights made where they are used: gigabytes of them take
// minutes on a host, and no time on a GPU.
#include "base/backend.h"
#include "device/cuda_device.h"
#include "device/memory.h"
#include "weights/weight_block.h"

namespace switchyard {

LayerWeights random_device_weights(const MoeConfig& config, Backend& backend, uint64_t seed,
                                   int num_ranks, int rank, const ExpertFormat& format) {
  if (backend.kind() == DeviceKind::Cpu)
    return random_weights(config, num_ranks, rank, seed, format);
  // Tables and values around another middle are few: they are made on the host.
  const bool special = config.gate.vocabulary > 0 || config.gate.expert_scale ||
                       config.path.input_norm || config.path.output_norm;
  if (special)
    return to_device(random_weights(config, num_ranks, rank, seed, format), config, num_ranks,
                     backend);
  const auto bytes = static_cast<size_t>(weight_bytes(config, num_ranks, format));
  auto memory = backend.memory().allocate(bytes);
  Arena arena({memory.get(), bytes}, backend.kind());
  WeightBlock block = WeightBlock::take(arena, config, num_ranks, format);
  block.memory = std::move(memory);
  for (const WeightPart& part : weight_parts(config, num_ranks, format))
    if (part.wanted)
      fill_random(block.*part.tensor, seed,
                  part.by_expert() ? rank * experts_of_rank(config.num_experts, num_ranks) : -1,
                  part.random.number, part.random.range, part.random.middle);
  return block.view();
}

}  // namespace switchyard
