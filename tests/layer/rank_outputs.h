// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/rank_outputs.h -- one layer on any communicator, to compare transports bit by bit.
#pragma once

#include <algorithm>
#include <vector>

#include "switchyard/layer.h"
#include "testing/buffer.h"
#include "testing/f8_weights.h"

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

// The output bits of this rank: every strategy, a small and a large call, then tensor parallel; with
// experts in bf16 and in f8_e4m3.
inline std::vector<uint16_t> rank_outputs(Communicator& comm, bool fp8_rows = true) {
  std::vector<uint16_t> bits;
  const auto run = [&](const std::string& strategy, int tp_size, bool fp8) {
    LayerOptions options;
    options.max_tokens = 600;
    options.strategy = strategy;
    options.tp_size = tp_size;
    options.num_threads = 1;
    options.fp8_rows = fp8_rows;
    const int group = comm.rank() / tp_size;
    auto weights = random_weights(transport_config(), comm.size(), comm.rank(), 9);
    if (fp8) weights = f8_weights(weights, {64, 128}, {128, 128});
    auto layer = MoeLayer::create(transport_config(), weights, comm, options);
    for (const int64_t tokens : {transport_tokens(group), int64_t{500}}) {
      const auto hidden = random_bf16({tokens, 128}, static_cast<uint64_t>(group));
      Buffer<Bf16> output({tokens, 128});
      layer->forward({.output = output.view(), .hidden = hidden.view()});
      layer->wait();
      for (int64_t i = 0; i < output.count(); ++i) bits.push_back(output[i].bits());
    }
  };
  for (const bool fp8 : {false, true}) {
    for (const auto& strategy : transport_strategies()) run(strategy, 1, fp8);
    run("normal+contiguous", 2, fp8);
  }
  return bits;
}

// The same with threads as ranks, whose rows travel in bf16.
inline std::vector<std::vector<uint16_t>> thread_outputs(int num_ranks) {
  std::vector<std::vector<uint16_t>> all(static_cast<size_t>(num_ranks));
  run_local_ranks(num_ranks, [&](Communicator& comm) {
    all[static_cast<size_t>(comm.rank())] = rank_outputs(comm, false);
  });
  return all;
}

}  // namespace switchyard::testing
