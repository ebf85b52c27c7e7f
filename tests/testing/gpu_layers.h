// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/gpu_layers.h -- dispatchers and layers over ranks on GPUs, with the inputs of every
// rank, for tests of whatever carries their rows.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>

#include "testing/checkpoints.h"
#include "testing/gpu_ranks.h"

namespace switchyard::testing {

inline bool small() {
  return std::getenv("SWITCHYARD_SMALL") != nullptr;  // for compute-sanitizer
}

inline AllOutcomes on_gpus(const DispatchCase& c, const Placement& p) {
  AllOutcomes all(static_cast<size_t>(c.num_ranks));
  run_gpu_ranks(p, [&](GpuRank& g) {
    all[static_cast<size_t>(g.rank())] = run_dispatch(c, g.comm, g.backend, g.stream);
  });
  return all;
}

// A layer over all ranks: inputs of each, and what they should give.
struct LayerProblem {
  MoeConfig config;
  std::function<LayerWeights(int num_ranks, int rank)> weights;
  std::vector<Buffer<Bf16>> hidden;  // by rank
  std::vector<Buffer<int32_t>> ids;  // empty: the gate chooses
  std::vector<Buffer<float>> router_weights;
  std::vector<Buffer<int64_t>> token_ids;  // empty: the layer chooses by scores
  int tp_size = 1;

  int64_t max_tokens() const {
    int64_t most = 0;
    for (const auto& x : hidden) most = std::max(most, x.view().dim(0));
    return most;
  }
};

inline LayerOptions options_of(const LayerProblem& p, const GpuRank& g,
                               const std::string& strategy) {
  LayerOptions o;
  o.max_tokens = p.max_tokens();
  o.strategy = strategy;
  o.device = DeviceKind::Cuda;
  o.tp_size = p.tp_size;
  o.backend = g.backend;
  o.masked_max_tokens = 64;
  return o;
}

// One rank's layer with the tensors of its calls.
struct RankLayer {
  RankLayer(const LayerProblem& p, GpuRank& g, const LayerOptions& options)
      : gpu(g),
        weights(to_device(p.weights(g.comm.size(), g.rank()), p.config, g.comm.size(), *g.backend)),
        layer(MoeLayer::create(p.config, weights, g.comm, options)),
        hidden(*g.backend, p.hidden[static_cast<size_t>(g.rank())].view()),
        output(*g.backend, DType::Bf16, hidden.view().shape) {
    if (!p.token_ids.empty())
      token_ids.emplace(*g.backend, p.token_ids[static_cast<size_t>(g.rank())].view());
    if (p.ids.empty()) return;
    ids.emplace(*g.backend, p.ids[static_cast<size_t>(g.rank())].view());
    router_weights.emplace(*g.backend, p.router_weights[static_cast<size_t>(g.rank())].view());
  }

  ForwardArgs args() const {
    ForwardArgs a{.output = output.view(), .hidden = hidden.view(), .stream = gpu.stream};
    if (ids) a.ids = ids->view(), a.weights = router_weights->view();
    if (token_ids) a.token_ids = token_ids->view();
    return a;
  }
  void poison() const {
    const Buffer<Bf16> nan(output.view().shape);
    // Not on the default stream: it may wait for a peer's kernel that waits for this rank.
    copy_to_device(*gpu.backend, output.view(), nan.data(), gpu.stream);
  }
  std::vector<uint16_t> bits() const {
    return read<uint16_t>(*gpu.backend, output.view(), gpu.stream);
  }
  void call(const ForwardArgs& a) const {
    layer->forward(a);
    layer->wait(gpu.stream);
  }
  std::vector<uint16_t> run(const ForwardArgs& a) const {
    poison();
    call(a);
    return bits();
  }
  std::vector<uint16_t> run() const { return run(args()); }

  GpuRank& gpu;
  LayerWeights weights;
  std::unique_ptr<MoeLayer> layer;
  OnDevice hidden, output;
  std::optional<OnDevice> ids, router_weights, token_ids;
};

using RankBits = std::vector<std::vector<uint16_t>>;

// Twice, and equal.
inline RankBits run_layer(const LayerProblem& p, const Placement& place,
                          const std::string& strategy,
                          const std::function<void(LayerOptions&)>& change = {}) {
  RankBits all(static_cast<size_t>(place.num_ranks));
  std::vector<char> same(all.size());
  run_gpu_ranks(place, [&](GpuRank& g) {
    auto options = options_of(p, g, strategy);
    if (change) change(options);
    const RankLayer rank(p, g, options);
    g.everyone();
    const auto at = static_cast<size_t>(g.rank());
    all[at] = rank.run();
    same[at] = rank.run() == all[at];
    g.everyone();
  });
  for (size_t r = 0; r < same.size(); ++r)
    EXPECT_TRUE(same[r]) << strategy << ": a second run differs on rank " << r;
  return all;
}

// All ranks' rows, in order; of a tensor-parallel group the first one's.
inline Buffer<Bf16> joined(const LayerProblem& p, const RankBits& bits) {
  std::vector<uint16_t> all;
  for (size_t r = 0; r < bits.size(); r += static_cast<size_t>(p.tp_size))
    all.insert(all.end(), bits[r].begin(), bits[r].end());
  Buffer<Bf16> out({static_cast<int64_t>(all.size()) / p.config.hidden, p.config.hidden});
  for (size_t i = 0; i < all.size(); ++i) out[static_cast<int64_t>(i)] = Bf16::from_bits(all[i]);
  return out;
}

// Groups of tp_size ranks share the tokens evenly; the last of several groups has none.
inline LayerProblem problem_of(const OracleCase& c, int num_ranks, int tp_size) {
  LayerProblem p;
  p.config = c.checkpoint->config(c.layer);
  p.tp_size = tp_size;
  p.weights = [&c](int ranks, int rank) { return c.checkpoint->load_layer(c.layer, ranks, rank); };
  const auto input = c.input();
  const int64_t tokens = input.view().dim(0);
  const int groups = num_ranks / tp_size, parts = groups > 2 ? groups - 1 : groups;
  for (int r = 0; r < num_ranks; ++r) {
    const int g = r / tp_size;
    const int64_t begin = g < parts ? tokens * g / parts : tokens,
                  end = g < parts ? tokens * (g + 1) / parts : tokens;
    Buffer<Bf16> own({end - begin, p.config.hidden});
    std::copy_n(input.data() + begin * p.config.hidden, own.count(), own.data());
    p.hidden.push_back(std::move(own));
    if (!c.token_ids().present()) continue;
    Buffer<int64_t> token_ids({end - begin});
    std::copy_n(c.token_ids().as<int64_t>() + begin, end - begin, token_ids.data());
    p.token_ids.push_back(std::move(token_ids));
  }
  return p;
}

// Rank r has `tokens(r)` tokens.
inline LayerProblem random_problem(const MoeConfig& config, int num_ranks,
                                   const std::function<int64_t(int)>& tokens, Skew skew,
                                   uint64_t seed) {
  LayerProblem p;
  p.config = config;
  p.weights = [config](int ranks, int rank) { return random_weights(config, ranks, rank, 3); };
  for (int r = 0; r < num_ranks; ++r) {
    const auto own = seed + 100 * static_cast<uint64_t>(r);
    p.hidden.push_back(random_bf16({tokens(r), config.hidden}, own));
    p.ids.push_back(random_ids(tokens(r), config.num_experts, config.top_k, skew, own + 1));
    p.router_weights.push_back(random_f32({tokens(r), config.top_k}, own + 2, 0.1f, 1.0f));
  }
  return p;
}

// Calls that no rank waits for in between: whether the last one gives each rank `expected`.
inline std::vector<char> run_ahead(const LayerProblem& p, const Placement& placement,
                                   const std::string& strategy,
                                   const std::vector<std::vector<uint16_t>>& expected) {
  const bool apart = placement.num_ranks == placement.num_devices;
  const int num_calls = small() ? 3 : apart ? 300 : 30;
  std::vector<char> same(expected.size());
  run_gpu_ranks(placement, [&](GpuRank& g) {
    const RankLayer rank(p, g, options_of(p, g, strategy));
    rank.poison();
    g.everyone();
    for (int i = 0; i < num_calls; ++i) rank.layer->forward(rank.args());
    rank.layer->wait(g.stream);
    const auto at = static_cast<size_t>(g.rank());
    same[at] = rank.bits() == expected[at];
    g.everyone();
  });
  return same;
}

// Replays with other routing, each beside an eager call; the last replay that differed, or -1.
inline int replays_that_differ(const LayerProblem& p, GpuRank& g, const LayerOptions& options,
                               int num_replays) {
  constexpr Skew kSkews[] = {Skew::Balanced,    Skew::Zipf,          Skew::OneHot,
                             Skew::SameExperts, Skew::FirstHalfOnly, Skew::SomeMissing,
                             Skew::NoExpert};
  const RankLayer rank(p, g, options);
  const OnDevice replayed(*g.backend, DType::Bf16, rank.output.view().shape);
  ForwardArgs captured = rank.args();
  captured.output = replayed.view();
  g.everyone();
  rank.run();
  g.everyone();
  int differs = -1;
  {
    Graph graph(g.stream, [&] { rank.layer->forward(captured); });
    g.everyone();
    const int64_t tokens = rank.hidden.view().dim(0);
    for (int i = 0; i < num_replays; ++i) {
      const auto ids = random_ids(tokens, p.config.num_experts, p.config.top_k,
                                  kSkews[static_cast<size_t>(i) % std::size(kSkews)],
                                  static_cast<uint64_t>(1000 * g.rank() + i));
      copy_to_device(*g.backend, rank.ids->view(), ids.data(), g.stream);
      graph.launch(g.stream);
      rank.layer->forward(rank.args());
      rank.layer->wait(g.stream);
      if (read<uint16_t>(*g.backend, replayed.view(), g.stream) != rank.bits()) differs = i;
    }
    g.everyone();
  }
  g.everyone();
  return differs;
}

// What each rank's wait said; empty: nothing.
struct Said {
  std::vector<std::string> messages;
  std::vector<Errc> codes;
  explicit Said(int num_ranks)
      : messages(static_cast<size_t>(num_ranks)), codes(static_cast<size_t>(num_ranks)) {}
  template <class F>
  void listen(int rank, F f) {
    try {
      f();
    } catch (const Error& e) {
      messages[static_cast<size_t>(rank)] = e.what();
      codes[static_cast<size_t>(rank)] = e.code();
    }
  }
};

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace switchyard::testing
