// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/strategy/strategy_test.cc -- names, conditions and choice: pure functions of a request.
#include "switchyard/strategy.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "switchyard/error.h"

#include "strategy/conditions.h"
#include "strategy/cost_model.h"
#include "testing/error_of.h"

namespace switchyard {
namespace {

DeviceDescription cpu() {
  DeviceDescription d;
  d.name = "a CPU";
  return d;
}

DeviceDescription gpu(int major) {
  DeviceDescription d;
  d.kind = DeviceKind::Cuda;
  d.name = "a GPU";
  d.compute_major = major;
  return d;
}

StrategyRequest request(const std::string& name = "auto", int num_ranks = 1) {
  StrategyRequest r;
  r.config.hidden = 2048;
  r.config.intermediate = 768;
  r.config.num_experts = 128;
  r.config.top_k = 8;
  r.num_ranks = num_ranks;
  r.max_tokens = 128;
  r.device = cpu();
  r.strategy = name;
  return r;
}

std::string message_of(const StrategyRequest& r) {
  return testing::message_of(Errc::Unsupported, [&] { choose_strategy(r); });
}

TEST(StrategyNames, EveryCombinationAndReferenceNameMeansWhatTheTableSays) {
  struct Row {
    const char* name;
    int num_ranks;
    const char* means;
  };
  const Row rows[] = {
      {"contiguous", 1, "local+contiguous"},
      {"contiguous", 4, "normal+contiguous"},
      {"masked", 1, "local+masked"},
      {"masked", 4, "normal+masked"},
      {"hybrid", 1, "local+hybrid"},
      {"hybrid", 4, "normal+hybrid"},
      {"local+masked", 1, "local+masked"},
      {"normal+hybrid", 4, "normal+hybrid"},
      {"all_gather+contiguous", 4, "all_gather+contiguous"},
      {"low_latency+contiguous", 4, "low_latency+contiguous"},
      {"low-latency+hybrid", 4, "low_latency+hybrid"},
      {"no_quant_ep_low_latency", 4, "low_latency+masked"},
      {"no_auant_ep_low_latency", 4, "low_latency+masked"},
      {"no_quant_cpp", 1, "local+contiguous"},
      {"no_quant_dp_normal", 4, "normal+contiguous"},
      {"no_quant_dp_normal_deepgemm", 4, "normal+hybrid"},
      {"no_quant_dp_normal_deepgemm", 1, "local+hybrid"},
      {"no_auant_cpp", 1, "local+contiguous"},
      {"no_auant_dp_normal", 4, "normal+contiguous"},
  };
  for (const auto& row : rows)
    EXPECT_EQ(choose_strategy(request(row.name, row.num_ranks)).name, row.means) << row.name;
}

TEST(StrategyNames, AnAliasWarnsOnceWithTheCanonicalName) {
  const auto s = choose_strategy(request("no_auant_cpp"));
  ASSERT_EQ(s.warnings.size(), 1u);
  EXPECT_NE(s.warnings[0].find("Say no_quant_cpp"), std::string::npos);
  EXPECT_TRUE(choose_strategy(request("no_quant_cpp")).warnings.empty());
}

TEST(StrategyNames, LaterNamesAreRecognisedWithTheNearestProvided) {
  const char* later[] = {"w4a8_int4_per_channel_no_dp",
                         "w4a8_int4_per_channel_ep_low_latency",
                         "w4a8_int4_per_channel_ep_normal",
                         "fp4_no_dp",
                         "fp4_ep_low_latency",
                         "fp4_ep_normal"};
  std::set<std::string> known;
  for (const auto& n : strategy_names()) known.insert(n.name);
  for (const char* name : later) {
    const auto message = message_of(request(name, 4));
    EXPECT_NE(message.find("not provided yet"), std::string::npos) << name << ": " << message;
    EXPECT_TRUE(known.count(name)) << name;
  }
  EXPECT_NE(message_of(request("fp4_ep_low_latency", 4)).find("no_quant_ep_low_latency"),
            std::string::npos);
}

TEST(StrategyNames, ThoseOfFp8AreForExpertsInF8E4m3) {
  const std::pair<const char*, const char*> here[] = {
      {"fp8_per_block_no_dp", "local+hybrid"},
      {"fp8_per_block_no_dp_masked", "local+masked"},
      {"fp8_per_tensor_no_dp", "local+contiguous"}};
  for (const auto& [name, means] : here) {
    StrategyRequest r = request(name);
    EXPECT_NE(message_of(r).find("the name is of experts in f8_e4m3 (saw bf16)"), std::string::npos)
        << name;
    r.experts = DType::F8E4m3;
    EXPECT_EQ(choose_strategy(r).name, means);
  }
  StrategyRequest bf16 = request("no_quant_cpp");
  bf16.experts = DType::F8E4m3;
  EXPECT_NE(message_of(bf16).find("the name is of experts in bf16 (saw f8_e4m3)"),
            std::string::npos);
  const std::pair<const char*, const char*> ranks[] = {
      {"fp8_per_block_ep_normal", "normal+hybrid"},
      {"fp8_per_block_pure_cp", "all_gather+hybrid"},
      {"fp8_per_block_pure_dp", "all_gather+masked"},
      {"fp8_per_tensor_ep_normal", "normal+contiguous"},
      {"fp8_per_block_ep_low_latency", "low_latency+masked"},
      {"fp8_per_tensor_ep_low_latency", "low_latency+masked"}};
  for (const auto& [name, means] : ranks) {
    StrategyRequest r = request(name, 4);
    r.experts = DType::F8E4m3;
    EXPECT_EQ(choose_strategy(r).name, means);
  }
}

// What the scatter fetches out of a peer's window has to be quantised there.
TEST(StrategyNames, RowsOfFp8ExpertsAreFetchedWhereTheyTravelInFp8) {
  StrategyRequest r = request("normal+contiguous", 4);
  r.device = gpu(9);
  r.device.available = true;
  r.device.memory_bytes = 80e9;
  r.peer_memory = r.fetch_rows = true;
  EXPECT_TRUE(choose_strategy(r).fetch_rows);
  r.experts = DType::F8E4m3;
  EXPECT_TRUE(choose_strategy(r).fetch_rows);
  EXPECT_EQ(choose_strategy(r).rows, DType::F8E4m3);
  r.fp8_rows = false;
  EXPECT_FALSE(choose_strategy(r).fetch_rows);
  EXPECT_EQ(choose_strategy(r).rows, DType::Bf16);
}

// Codes and scales there, bf16 back: 0.51 and 1 of what crosses in bf16.
TEST(CostModel, RowsInFp8TakeHalfOfTheLinkThereAndLessMemory) {
  for (const auto kind :
       {DispatcherKind::Normal, DispatcherKind::AllGather, DispatcherKind::LowLatency})
    for (const bool peer_memory : {true, false}) {
      StrategyRequest r = request("auto", 4);
      r.config.hidden = 7168;
      r.device = gpu(9);
      r.peer_memory = peer_memory;
      r.experts = DType::F8E4m3;
      const Combination c{kind, ExecutorKind::Contiguous, GemmProvider::Hopper};
      const double f8 = predict(c, r).link_us;
      r.fp8_rows = false;
      const double bf16 = predict(c, r).link_us;
      EXPECT_NEAR(f8 / bf16, (7168 + 56 * 4 + 14336) / (2.0 * 14336), 1e-9)
          << dispatcher_name(kind) << peer_memory;
    }
}

TEST(StrategyNames, AnUnknownNameListsAllAndTheNearest) {
  const auto message = message_of(request("no_quant_dp_norml"));
  EXPECT_NE(message.find("Did you mean no_quant_dp_normal?"), std::string::npos) << message;
  for (const auto& n : strategy_names())
    EXPECT_NE(message.find(n.name), std::string::npos) << n.name;
  for (const char* name : {"", "normal+", "+masked", "normal+masked+masked", "AUTO", "masked "})
    EXPECT_NE(message_of(request(name)).find("is unknown"), std::string::npos) << name;
}

TEST(Auto, PicksTheDispatcherThatTheRanksCallFor) {
  struct Row {
    int num_ranks, tp_size;
    bool use_all_gather;
    DispatcherKind expected;
  };
  const Row rows[] = {{1, 1, true, DispatcherKind::Local},  {1, 1, false, DispatcherKind::Local},
                      {4, 1, true, DispatcherKind::Normal}, {4, 2, true, DispatcherKind::Normal},
                      {4, 4, true, DispatcherKind::Local},  {4, 4, false, DispatcherKind::Normal},
                      {8, 1, false, DispatcherKind::Normal}};
  for (const auto& row : rows)
    for (const bool low_latency : {false, true}) {
      auto r = request("auto", row.num_ranks);
      r.tp_size = row.tp_size;
      r.use_all_gather = row.use_all_gather;
      r.use_low_latency = low_latency;
      const auto s = choose_strategy(r);
      const bool takes_it = low_latency && row.expected == DispatcherKind::Normal;
      EXPECT_EQ(s.dispatcher, takes_it ? DispatcherKind::LowLatency : row.expected)
          << row.num_ranks << " " << row.tp_size;
      EXPECT_EQ(s.reason.find("low latency is asked for") != std::string::npos, takes_it);
      EXPECT_FALSE(s.opt_in);
      EXPECT_TRUE(s.holds());
      EXPECT_NE(s.reason.find("auto: "), std::string::npos);
    }
}

TEST(Auto, TakesLowLatencyForSumsAtTheSourceAndNeverOverNccl) {
  auto r = request("auto", 4);
  r.sums_at_source = true;
  EXPECT_EQ(choose_strategy(r).dispatcher, DispatcherKind::LowLatency);
  r.num_ranks = 1;
  EXPECT_EQ(choose_strategy(r).dispatcher, DispatcherKind::Local);
  r = request("auto", 4);
  r.device = gpu(9);
  r.device.link_gbps = 390, r.device.read_gbps = 3000;
  r.use_low_latency = r.has_nccl = true;
  EXPECT_EQ(choose_strategy(r).dispatcher, DispatcherKind::LowLatency);
  r.peer_memory = false;
  EXPECT_NE(choose_strategy(r).dispatcher, DispatcherKind::LowLatency);
}

TEST(Auto, NeverTakesAnOptInStrategyAndTakesTheCheapest) {
  for (const int64_t tokens : {1, 16, 256, 4096}) {
    auto r = request("auto", 4);
    r.max_tokens = tokens;
    const auto chosen = choose_strategy(r);
    EXPECT_NE(chosen.executor, ExecutorKind::Hybrid);
    for (const auto& s : evaluate_strategies(r))
      if (s.holds() && !s.opt_in && s.dispatcher == chosen.dispatcher) {
        EXPECT_LE(chosen.predicted_us, s.predicted_us) << s.name;
      }
  }
}

// Over NCCL on two and four GPUs blocks of `normal` took longer, since they are as large and are
// packed, and so did exact sizes, for which the host waits; docs/decisions/0042, 0044.
TEST(Auto, TakesAllRowsToAllRanksOverNcclUntilExactSizesAreMuchLess) {
  const auto over_nccl = [](int num_ranks, int64_t tokens, bool host_counts) {
    auto r = request("auto", num_ranks);
    r.device = gpu(9);
    r.device.link_gbps = 390, r.device.read_gbps = 3000;  // as describe_device says of GPUs
    r.max_tokens = tokens;
    r.workspace_limit_bytes = int64_t{1} << 40;
    r.peer_memory = false;
    r.has_nccl = true;
    r.host_counts = host_counts;
    return choose_strategy(r);
  };
  for (const int num_ranks : {2, 4})
    for (const int64_t tokens : {128, 8192})
      for (const bool host_counts : {false, true}) {
        const Strategy s = over_nccl(num_ranks, tokens, host_counts);
        EXPECT_EQ(s.dispatcher, DispatcherKind::AllGather) << num_ranks << ", " << tokens;
        EXPECT_EQ(s.token_pieces, 1) << "beside NCCL's kernels they were slower";
        EXPECT_NE(s.reason.find("all rows to all ranks"), std::string::npos) << s.reason;
      }
  EXPECT_EQ(over_nccl(32, 8192, false).dispatcher, DispatcherKind::AllGather);
  EXPECT_EQ(over_nccl(32, 8192, true).dispatcher, DispatcherKind::Normal);
}

TEST(Choice, IsPure) {
  for (const char* name : {"auto", "normal+masked", "hybrid"}) {
    const auto first = choose_strategy(request(name, 4));
    evaluate_strategies(request("auto", 2));
    const auto second = choose_strategy(request(name, 4));
    EXPECT_EQ(first.name, second.name);
    EXPECT_EQ(first.reason, second.reason);
    EXPECT_EQ(first.workspace_bytes, second.workspace_bytes);
    EXPECT_EQ(first.predicted_us, second.predicted_us);
  }
}

struct Toggle {
  const char* seen;  // must stand in the error
  std::function<void(StrategyRequest&)> breaks;
  const char* name = "normal+contiguous";
};

const Toggle kToggles[] = {
    {"H=2052", [](auto& r) { r.config.hidden = 2052; }},
    {"f32", [](auto& r) { r.dtype = DType::F32; }},
    {"fp8", [](auto& r) { r.quantization = "fp8"; }},
    {"P=0", [](auto& r) { r.num_ranks = 0; }},
    {"tp=3, P=4", [](auto& r) { r.tp_size = 3; }},
    {"max_tokens=-1", [](auto& r) { r.max_tokens = -1; }},
    {"alignment=0", [](auto& r) { r.alignment = 0; }},
    {"masked_max_tokens=-1", [](auto& r) { r.masked_max_tokens = -1; }, "normal+hybrid"},
    {"P=1", [](auto& r) { r.num_ranks = 1; }},
    {"P=4, tp=1", [](auto&) {}, "local+contiguous"},
    {"use_all_gather=off", [](auto& r) { r.tp_size = 4, r.use_all_gather = false; },
     "local+contiguous"},
    {"normal, P=4", [](auto& r) { r.sums_at_source = true; }},
    {"peer_memory=off",
     [](auto& r) { r.device = gpu(9), r.peer_memory = false, r.has_nccl = true; },
     "low_latency+masked"},
    {"P=1", [](auto& r) { r.num_ranks = 1; }, "low_latency+masked"},
    {"limit 1000", [](auto& r) { r.workspace_limit_bytes = 1000; }},
    {"max_tokens=300000000", [](auto& r) { r.max_tokens = 300000000; }},
    {"no GPU here",
     [](auto& r) {
       r.device = gpu(9);
       r.device.available = false;
       r.device.unavailable_reason = "no GPU here";
     }},
    {"sm_80", [](auto& r) { r.device = gpu(8); }},
    {"sm_100", [](auto& r) { r.device = gpu(10); }},
    {"(transport threads, processes or mpi) (saw P=4, pigeons)",
     [](auto& r) { r.device = gpu(9), r.transport = "pigeons"; }},
    {"have NCCL (saw this build has none)",
     [](auto& r) { r.device = gpu(9), r.peer_memory = false; }},
    {"no graph captures rows of exact sizes over NCCL",
     [](auto& r) {
       r.device = gpu(9), r.peer_memory = false;
       r.has_nccl = r.host_counts = r.cuda_graph = true;
     }},
    {"one rank over cuBLAS: it loads kernels late, which may wait for a peer (saw P=4)",
     [](auto& r) { r.device = gpu(9); }, "normal+masked+cublas"},
    {"sm_70", [](auto& r) { r.device = gpu(7); }, "normal+masked+cublas"},
    {"host_counts=off", [](auto& r) { r.device = gpu(9); }, "normal+contiguous+cublas"},
    {"host_counts=off", [](auto& r) { r.device = gpu(9); }, "normal+hybrid+cublas"},
    {"cuda_graph=on", [](auto& r) { r.device = gpu(9), r.host_counts = true, r.cuda_graph = true; },
     "normal+contiguous+cublas"},
    {"cublas on cpu", [](auto&) {}, "normal+masked+cublas"},
    {"hopper on cpu", [](auto&) {}, "normal+masked+hopper"},
};

TEST(Carrier, FollowsFromWhatRanksReachAndWhetherTheHostMayReadCounts) {
  auto r = request("normal+masked", 4);
  EXPECT_EQ(choose_strategy(r).carrier, "") << "ranks on a CPU";
  r.device = gpu(9);
  const Strategy peers = choose_strategy(r);
  EXPECT_EQ(peers.carrier, "kernels, fetched from peer memory by the scatter");
  r.peer_memory = false;
  r.has_nccl = true;
  const Strategy blocks = choose_strategy(r);
  EXPECT_EQ(blocks.carrier, "NCCL, in blocks of the call's bound");
  EXPECT_GT(blocks.workspace_bytes, peers.workspace_bytes);
  r.host_counts = true;
  const Strategy exact = choose_strategy(r);
  EXPECT_EQ(exact.carrier, "NCCL, in exact sizes (host counts)");
  EXPECT_LT(exact.workspace_bytes, blocks.workspace_bytes);
  r.strategy = "auto";
  EXPECT_NE(choose_strategy(r).reason.find("over NCCL"), std::string::npos);
  r.strategy = "all_gather+masked";
  EXPECT_EQ(choose_strategy(r).carrier, "NCCL, in blocks of the call's bound")
      << "its sizes do not depend on the routing";
}

TEST(Conditions, EachOneAloneRefusesANameWithTheValueItSaw) {
  for (const auto& toggle : kToggles) {
    auto r = request(toggle.name, 4);
    toggle.breaks(r);
    const auto message = message_of(r);
    EXPECT_NE(message.find(toggle.seen), std::string::npos) << toggle.seen << " / " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(Conditions, EveryStrategyRecordsEachWithItsValueAndNeverThrows) {
  for (const auto& toggle : kToggles) {
    auto r = request("auto", 4);
    toggle.breaks(r);
    const auto all = evaluate_strategies(r);
    // 4 dispatchers x 3 executors; on CUDA with either of two providers
    EXPECT_EQ(all.size(), r.device.kind == DeviceKind::Cuda ? 24u : 12u);
    for (const auto& s : all) {
      EXPECT_FALSE(s.conditions.empty());
      for (const auto& c : s.conditions)
        EXPECT_NE(c.text.find(" (saw"), std::string::npos) << c.text;
    }
  }
}

TEST(Conditions, ZeroExpertsMayBeChosenToo) {
  auto r = request("contiguous");
  r.config.top_k = 130;
  r.config.gate.num_zero_experts = 1;
  EXPECT_NE(message_of(r).find("1 <= K <= E (saw K=130, E=128)"), std::string::npos);
  r.config.gate.num_zero_experts = 2;
  EXPECT_EQ(message_of(r), "");
  r.config.gate.num_zero_experts = 0;
  r.config.top_k = 128;
  EXPECT_EQ(message_of(r), "");
  for (const int64_t top_k : {int64_t{0}, int64_t{-1}, int64_t{129}, INT64_MAX, INT64_MIN}) {
    r.config.top_k = top_k;
    EXPECT_NE(message_of(r).find("1 <= K <= E (saw K="), std::string::npos) << top_k;
  }
}

TEST(Conditions, ThatAllMustHoldNameEachThatDoesNot) {
  EXPECT_NO_THROW(require_all("layer", {}));
  EXPECT_NO_THROW(require_all("layer", {{"a (saw 1)", true}}));
  try {
    require_all("layer", {{"a (saw 1)", false}, {"b (saw 2)", true}, {"c (saw 3)", false}});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Errc::Unsupported);
    EXPECT_STREQ(e.what(),
                 "layer: condition failed: a (saw 1); c (saw 3). Change what it saw, or choose "
                 "another strategy.");
  }
}

TEST(Conditions, OfGpusApplyWithAGpuOnly) {
  const auto mentions_sm = [](const StrategyRequest& r) {
    const auto all = evaluate_strategies(r);
    for (const auto& c : all[0].conditions)
      if (c.text.find("compute capability") != std::string::npos) return true;
    return false;
  };
  EXPECT_FALSE(mentions_sm(request()));
  auto r = request();
  r.device = gpu(9);
  EXPECT_TRUE(mentions_sm(r));
}

StrategyRequest on_gpu(const std::string& name, int major = 9) {
  auto r = request(name);
  r.device = gpu(major);
  r.device.read_gbps = 3000;
  r.device.gemm_gflops = 780e3;
  return r;
}

TEST(Providers, NamesMeanWhatTheTableSays) {
  struct Row {
    const char *name, *means;
    GemmProvider provider;
  };
  const Row rows[] = {
      {"masked", "local+masked", GemmProvider::Hopper},
      {"contiguous+hopper", "local+contiguous", GemmProvider::Hopper},
      {"local+hybrid+hopper", "local+hybrid", GemmProvider::Hopper},
      {"masked+cublas", "local+masked+cublas", GemmProvider::Cublas},
      {"local+masked+cublas", "local+masked+cublas", GemmProvider::Cublas},
      {"no_quant_cpp", "local+contiguous", GemmProvider::Hopper},
  };
  for (const auto& row : rows) {
    const auto s = choose_strategy(on_gpu(row.name));
    EXPECT_EQ(s.name, row.means) << row.name;
    EXPECT_EQ(s.provider, row.provider) << row.name;
  }
  for (const char* name : {"cublas", "masked+cublas+masked", "local+cublas", "masked+cpu",
                           "masked+cublas+cublas", "no_quant_cpp+cublas"})
    EXPECT_NE(message_of(on_gpu(name)).find("is unknown"), std::string::npos) << name;
  EXPECT_NE(message_of(on_gpu("masked+cublaas")).find("Did you mean masked+cublas?"),
            std::string::npos);
}

TEST(Providers, AutoTakesHopperWhereItRunsAndCublasWhereItDoesNot) {
  for (const int64_t tokens : {0, 1, 64, 1024, 4096})
    for (const bool host_counts : {false, true})
      for (const int major : {8, 9, 10}) {
        auto r = on_gpu("auto", major);
        r.max_tokens = tokens;
        r.host_counts = host_counts;
        r.workspace_limit_bytes = int64_t{1} << 50;
        const auto s = choose_strategy(r);
        EXPECT_EQ(s.provider, major == 9 ? GemmProvider::Hopper : GemmProvider::Cublas)
            << tokens << " " << major;
        EXPECT_TRUE(s.holds());
        if (!host_counts && major != 9) {
          EXPECT_EQ(s.name, "local+masked+cublas");
        }
      }
}

TEST(Providers, CublasIsLookedForWhereAStrategyOverItIsEvaluatedAlone) {
  static int times = 0;
  const auto asked = [](const char* name, int major) {
    auto r = on_gpu(name, major);
    r.device.has_cublas = [] {
      ++times;
      return false;
    };
    times = 0;
    return r;
  };
  for (const char* name : {"auto", "masked", "contiguous", "hybrid"}) {
    EXPECT_EQ(choose_strategy(asked(name, 9)).provider, GemmProvider::Hopper) << name;
    EXPECT_EQ(times, 0) << name;
  }
  for (const auto& [name, major] : {std::pair{"masked+cublas", 9}, std::pair{"auto", 8}}) {
    const auto message = message_of(asked(name, major));
    EXPECT_NE(message.find("cuBLAS can be opened (saw there is none)"), std::string::npos)
        << message;
    EXPECT_GT(times, 0) << name;
  }
  int shown = 0;
  for (const auto& s : evaluate_strategies(asked("auto", 9)))
    for (const auto& c : s.conditions)
      if (c.text == "cuBLAS can be opened (saw there is none)") shown += !c.holds;
  EXPECT_EQ(shown, times);
  EXPECT_GT(shown, 0);
}

TEST(Providers, CublasNeverIsPredictedToBeFaster) {
  for (const int64_t tokens : {1, 64, 4096}) {
    auto r = on_gpu("auto");
    r.max_tokens = tokens;
    const auto all = evaluate_strategies(r);
    for (const auto& hopper : all)
      for (const auto& cublas : all)
        if (cublas.name == hopper.name + "+cublas") {
          EXPECT_LE(hopper.predicted_us, cublas.predicted_us) << cublas.name;
        }
  }
}

TEST(Providers, HostCountsLetContiguousRunOverCublasUnlessCaptured) {
  auto r = on_gpu("contiguous+cublas");
  EXPECT_NE(message_of(r).find("host_counts=off"), std::string::npos);
  r.host_counts = true;
  EXPECT_EQ(choose_strategy(r).name, "local+contiguous+cublas");
  r.cuda_graph = true;
  EXPECT_NE(message_of(r).find("waits for the stream to read counts"), std::string::npos);
  r.strategy = "masked+cublas";
  EXPECT_NO_THROW(choose_strategy(r));
}

TEST(Providers, OnlyCublasTakesScratchForItsSums) {
  auto r = on_gpu("contiguous");
  r.host_counts = true;
  const auto cpu_bytes = choose_strategy(request("contiguous")).workspace_bytes;
  EXPECT_EQ(choose_strategy(r).workspace_bytes, cpu_bytes);
  r.strategy = "contiguous+cublas";
  const int64_t rows = 128 * 8, columns = 2 * 768;
  EXPECT_EQ(choose_strategy(r).workspace_bytes, cpu_bytes + rows * columns * 4);
}

constexpr char kSmallTiles[] =
    "GEMM1 32x64x128, 3 stages, cluster of 1 (by rule); "
    "GEMM2 32x64x128, 3 stages, cluster of 1 (by rule)";
constexpr char kFewTiles[] =
    "GEMM1 64x128x64, 7 stages, cluster of 1 (by rule); "
    "GEMM2 64x128x64, 7 stages, cluster of 1 (by rule)";
constexpr char kLargeTiles[] =
    "GEMM1 256x128x64, 4 stages, cluster of 2 (by rule); "
    "GEMM2 256x128x64, 4 stages, cluster of 2 (by rule)";

TEST(Gemms, OfHopperNameTheTilesAtTheCapacity) {
  for (const char* name : {"contiguous", "masked"}) {
    auto r = on_gpu(name);
    r.max_tokens = 64;  // 4 rows an expert
    EXPECT_EQ(choose_strategy(r).gemms, kSmallTiles) << name;
    r.max_tokens = 4096;  // 256 rows an expert
    EXPECT_EQ(choose_strategy(r).gemms, kLargeTiles) << name;
    r.num_sms = 1;
    EXPECT_EQ(choose_strategy(r).gemms,
              "GEMM1 128x128x64, 5 stages, cluster of 1 (by rule); "
              "GEMM2 128x128x64, 5 stages, cluster of 1 (by rule)");
    r.max_tokens = 0;
    EXPECT_EQ(choose_strategy(r).gemms, "");
  }
}

TEST(Gemms, FollowTheColumnsOfEachGemm) {
  auto r = on_gpu("contiguous");
  r.max_tokens = 4096;
  r.config.hidden = 128;
  EXPECT_EQ(choose_strategy(r).gemms,
            "GEMM1 256x128x64, 4 stages, cluster of 2 (by rule); "
            "GEMM2 128x128x64, 5 stages, cluster of 1 (by rule)");
}

TEST(Gemms, OfAHybridNameBothLayoutsWhereTheyDiffer) {
  auto r = on_gpu("hybrid");
  r.masked_max_tokens = 500;
  r.max_tokens = 4096;
  EXPECT_EQ(choose_strategy(r).gemms, std::string("masked, up to 500 rows: ") + kFewTiles +
                                          "; contiguous, up to 4096: " + kLargeTiles);
  r.max_tokens = 600;  // the same tiles above the threshold
  EXPECT_EQ(choose_strategy(r).gemms, kFewTiles);
  r.max_tokens = 400;  // below it
  EXPECT_EQ(choose_strategy(r).gemms, kFewTiles);
  r.max_tokens = 4096;
  r.masked_max_tokens = 0;  // never masked
  EXPECT_EQ(choose_strategy(r).gemms, kLargeTiles);
}

TEST(Gemms, AreNotNamedForOtherProvidersOrSizesThatMeanNothing) {
  for (const auto& s : evaluate_strategies(request())) EXPECT_EQ(s.gemms, "") << s.name;
  for (const auto& s : evaluate_strategies(on_gpu("auto")))
    EXPECT_EQ(s.gemms.empty(), s.provider != GemmProvider::Hopper) << s.name;
  auto r = on_gpu("auto");
  r.max_tokens = int64_t{1} << 61;
  for (const auto& s : evaluate_strategies(r)) EXPECT_EQ(s.gemms, "") << s.name;
}

// Two H100s.
StrategyRequest on_two_gpus(int64_t max_tokens) {
  auto r = request("normal+contiguous", 2);
  r.device = gpu(9);
  r.device.num_sms = 132;
  r.device.read_gbps = 3000, r.device.gemm_gflops = 780e3, r.device.link_gbps = 390;
  r.max_tokens = max_tokens;
  r.workspace_limit_bytes = int64_t{1} << 40;
  return r;
}

TEST(TokenPieces, AreChosenWhereLinksTakeLongAndWeightsDoNot) {
  // measured: 2x H100, 8192 tokens: 1441 us whole, 1552 in two pieces; 16384: 2759, 2857
  EXPECT_EQ(choose_strategy(on_two_gpus(8192)).token_pieces, 1);
  EXPECT_EQ(choose_strategy(on_two_gpus(16384)).token_pieces, 1);
  auto slow_link = on_two_gpus(8192);
  slow_link.device.link_gbps = 45;
  EXPECT_GT(choose_strategy(slow_link).token_pieces, 1);
  slow_link.max_tokens = 16;
  EXPECT_EQ(choose_strategy(slow_link).token_pieces, 1) << "the weights would be read twice";
  auto one = on_two_gpus(8192);
  one.num_ranks = 1, one.strategy = "contiguous";
  EXPECT_EQ(choose_strategy(one).token_pieces, 1);
  auto cpus = request("normal+contiguous", 2);
  cpus.max_tokens = 8192;
  EXPECT_EQ(choose_strategy(cpus).token_pieces, 1);
  auto replicated = on_two_gpus(8192);
  replicated.tp_size = 2;
  EXPECT_EQ(choose_strategy(replicated).token_pieces, 1);
}

TEST(TokenPieces, AreAsManyAsTheRequestSays) {
  auto r = on_two_gpus(128);
  for (const int pieces : {1, 2, 5}) {
    r.token_pieces = pieces;
    EXPECT_EQ(choose_strategy(r).token_pieces, pieces);
  }
  r.max_tokens = 3;
  EXPECT_EQ(choose_strategy(r).token_pieces, 3) << "at least a token each";
}

TEST(TokenPieces, HoldACallsTokensAndAreNoLargerThanThoseOfTheLargest) {
  for (const int64_t capacity : {1, 7, 60, 8192})
    for (const int most : {1, 2, 3, 7})
      for (const int64_t tokens : {int64_t{0}, int64_t{1}, capacity / 2, capacity - 1, capacity}) {
        const TokenPieces p = cut_tokens(tokens, capacity, most);
        EXPECT_LE(p.count, most);
        EXPECT_GE(p.count * p.tokens, tokens);
        EXPECT_LE(p.tokens, cut_tokens(capacity, capacity, most).tokens);
        EXPECT_GE(p.count, 1);
      }
}

TEST(Conditions, AWorkspaceBeyond63BitsIsRefusedNotWrapped) {
  auto r = request("masked", 4);
  r.max_tokens = int64_t{1} << 60;
  EXPECT_NE(message_of(r).find("sizes beyond 63 bits"), std::string::npos);
}

TEST(Workspace, OfAMaskedStrategyIsRefusedWithItsBytes) {
  auto r = request("masked", 1);
  r.max_tokens = 100000;  // 128 experts x 100000 rows x (2048 + 768) x 2 bytes = 67 GiB
  const auto message = message_of(r);
  EXPECT_NE(message.find("the workspace is within the limit (saw "), std::string::npos) << message;
  EXPECT_NE(message.find("GiB"), std::string::npos) << message;
  r.strategy = "hybrid";
  EXPECT_NO_THROW(choose_strategy(r));
}

}  // namespace
}  // namespace switchyard
