// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/rank_outputs.h -- one layer on any communicator, to compare transports bit by bit.
#pragma once

#include <algorithm>
#include <vector>

#include "switchyard/layer.h"
#include "testing/buffer.h"

namespace switchyard::testing {

inline MoeConfig transport_config() {
  MoeConfig c;
  c.hidden = 128;
  c.intermediate = 64;
  c.num_experts = 16;
  c.top_k = 4;
  c.shared.intermediate = 64;
  return c;
}

inline std::vector<std::string> transport_strategies() {
  return {"normal+contiguous", "normal+masked", "all_gather+hybrid", "low_latency+masked"};
}

// Rank r has 20 + 7 r tokens.
inline int64_t transport_tokens(int rank) {
  return 20 + 7 * rank;
}

// The output bits of this rank: every strategy, a small and a large call, then tensor parallel.
inline std::vector<uint16_t> rank_outputs(Communicator& comm) {
  std::vector<uint16_t> bits;
  const auto run = [&](const std::string& strategy, int tp_size) {
    LayerOptions options;
    options.max_tokens = 600;
    options.strategy = strategy;
    options.tp_size = tp_size;
    options.num_threads = 1;
    const int group = comm.rank() / tp_size;
    auto layer = MoeLayer::create(transport_config(),
                                  random_weights(transport_config(), comm.size(), comm.rank(), 9),
                                  comm, options);
    for (const int64_t tokens : {transport_tokens(group), int64_t{500}}) {
      const auto hidden = random_bf16({tokens, 128}, static_cast<uint64_t>(group));
      Buffer<Bf16> output({tokens, 128});
      layer->forward({.output = output.view(), .hidden = hidden.view()});
      layer->wait();
      for (int64_t i = 0; i < output.count(); ++i) bits.push_back(output[i].bits());
    }
  };
  for (const auto& strategy : transport_strategies()) run(strategy, 1);
  run("normal+contiguous", 2);
  return bits;
}

// The same with threads as ranks.
inline std::vector<std::vector<uint16_t>> thread_outputs(int num_ranks) {
  std::vector<std::vector<uint16_t>> all(static_cast<size_t>(num_ranks));
  run_local_ranks(num_ranks, [&](Communicator& comm) {
    all[static_cast<size_t>(comm.rank())] = rank_outputs(comm);
  });
  return all;
}

}  // namespace switchyard::testing
