// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "strategy/gemm_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "testing/error_of.h"

namespace switchyard {
namespace {

constexpr char kStream[] = "32x64x128, 3 stages, cluster of 1";
constexpr char kFew[] = "64x128x64, 7 stages, cluster of 1";
constexpr char kMany[] = "256x128x64, 4 stages, cluster of 2";
constexpr char kChunks[] = "128x128x64, 5 stages, cluster of 1, adds chunks";
constexpr char kF8Few[] = "64x128x128, 7 stages, cluster of 1, fp8";
constexpr auto kBf16 = OperandKind::Bf16, kF8 = OperandKind::F8E4m3;

// 256 rows an expert: the rule takes kMany.
const GemmShape kShape{
    .num_experts = 8, .max_rows = 2048, .n = 1536, .k = 2048, .has_chunks = false, .gated = true};

constexpr TunedGemm kTable[] = {{kBf16, 8, 1536, 2048, true, 2048, kFew},
                                {kBf16, 8, 1536, 2048, true, 2400, kStream},
                                {kF8, 8, 1536, 2048, true, 2048, kF8Few},
                                {kBf16, 8, 1536, 2048, true, 64, kMany},
                                {kBf16, 8, 1536, 2048, true, 6000, "7x7x7, 1 stages, cluster of 1"},
                                {kBf16, 8, 1536, 2048, true, 8000, kF8Few}};

std::string chosen(const GemmShape& s, GemmTable table = kTable) {
  const GemmChoice choice = choose_gemm(s, table);
  if (choice.by == GemmChooser::Rule) {
    EXPECT_EQ(choice.config, choose_gemm_config(s));
    return "rule";
  }
  EXPECT_EQ(choice.by, GemmChooser::Table);
  return describe(choice.config);
}

std::string at_rows(int64_t rows) {
  GemmShape s = kShape;
  s.max_rows = rows;
  return chosen(s);
}

TEST(GemmChoice, WithoutATableIsTheRules) {
  for (const int64_t rows : {0, 1, 64, 2048, 1 << 20}) {
    GemmShape s = kShape;
    s.max_rows = rows;
    EXPECT_EQ(chosen(s, {}), "rule");
  }
}

TEST(GemmChoice, OfATableIsThatOfTheNearestRowsWithinAFactor) {
  EXPECT_EQ(at_rows(2048), kFew);
  EXPECT_EQ(at_rows(1639), kFew);  // 2048 / 1.25 = 1638.4
  EXPECT_EQ(at_rows(1638), "rule");
  EXPECT_EQ(at_rows(2217), kFew);  // the root of 2048 * 2400 is 2217.03
  EXPECT_EQ(at_rows(2218), kStream);
  EXPECT_EQ(at_rows(2400), kStream);
  EXPECT_EQ(at_rows(3000), kStream);
  EXPECT_EQ(at_rows(3001), "rule");
  EXPECT_EQ(at_rows(80), kMany);
  EXPECT_EQ(at_rows(81), "rule");
  EXPECT_EQ(at_rows(0), "rule");
}

TEST(GemmChoice, OfATableIsThatOfTheSameShape) {
  const auto with = [](auto change) {
    GemmShape s = kShape;
    change(s);
    return chosen(s);
  };
  EXPECT_EQ(with([](GemmShape&) {}), kFew);
  EXPECT_EQ(with([](GemmShape& s) { s.operands = kF8; }), kF8Few);
  EXPECT_EQ(with([](GemmShape& s) { s.num_experts = 9; }), "rule");
  EXPECT_EQ(with([](GemmShape& s) { s.n = 1544; }), "rule");
  EXPECT_EQ(with([](GemmShape& s) { s.k = 2040; }), "rule");
  EXPECT_EQ(with([](GemmShape& s) { s.gated = false; }), "rule");
  EXPECT_EQ(with([](GemmShape& s) { s.has_chunks = true; }), "rule");
  // Times are those of all multiprocessors.
  EXPECT_EQ(with([](GemmShape& s) { s.num_sms = 100; }), "rule");
}

TEST(GemmChoice, OfATableIsTheRulesWhereItsOwnCannotBeHad) {
  EXPECT_EQ(at_rows(6000), "rule");  // not compiled
  EXPECT_EQ(at_rows(8000), "rule");  // of other operands
}

TEST(GemmChoice, ATableIsOfTheGpuWithTheseMultiprocessorsAndReads) {
  const TunedGpu gpus[] = {{"one", 132, 3050, kTable},
                           {"two", 132, 4470, GemmTable(kTable).first(1)}};
  const auto size_for = [&](int num_sms, double read_gbps) {
    DeviceDescription d;
    d.kind = DeviceKind::Cuda;
    d.num_sms = num_sms, d.read_gbps = read_gbps;
    return gemm_table(d, gpus).size();
  };
  EXPECT_EQ(size_for(132, 3050), std::size(kTable));
  EXPECT_EQ(size_for(132, 3100), std::size(kTable));
  EXPECT_EQ(size_for(132, 4400), 1u);
  EXPECT_EQ(size_for(132, 3900), 0u);
  EXPECT_EQ(size_for(114, 3050), 0u);
  EXPECT_TRUE(gemm_table({}, gpus).empty());
}

// What is compiled no longer is as if it was not there, so that a configuration may go before the
// times are measured once more.
TEST(GemmChoice, WhatIsShippedIsChosenForWhatItIsFor) {
  for (const TunedGpu& gpu : tuned_gpus()) {
    EXPECT_FALSE(gpu.gemms.empty());
    std::set<std::tuple<OperandKind, int64_t, int64_t, int64_t, bool, int64_t>> shapes;
    for (const TunedGemm& t : gpu.gemms) {
      EXPECT_TRUE(shapes.insert({t.operands, t.num_experts, t.n, t.k, t.gated, t.rows}).second);
      const GemmConfig* config = find_gemm_config(t.config);
      if (config == nullptr) continue;
      const GemmShape s{.num_experts = t.num_experts,
                        .max_rows = t.rows,
                        .n = t.n,
                        .k = t.k,
                        .operands = t.operands,
                        .gated = t.gated};
      EXPECT_EQ(why_not(*config, s), "");
      EXPECT_EQ(chosen(s, gpu.gemms), t.config);
    }
  }
}

TEST(GemmChoice, ATextNamesTheConfigurationThatItDescribes) {
  for (const GemmConfig& config : kGemmConfigs) {
    const GemmConfig* found = find_gemm_config(describe(config));
    ASSERT_NE(found, nullptr) << describe(config);
    EXPECT_EQ(found, &config);
    EXPECT_EQ(find_gemm_config(describe(config) + " "), nullptr);
  }
  EXPECT_EQ(find_gemm_config(""), nullptr);
  EXPECT_EQ(find_gemm_config("64x128x64"), nullptr);
}

TEST(GemmChoice, SaysWhyAConfigurationCannotDoAGemm) {
  const auto why = [](const char* config, auto change) {
    GemmShape s = kShape;
    change(s);
    return why_not(*find_gemm_config(config), s);
  };
  const auto as_it_is = [](GemmShape&) {};
  for (const char* config : {kStream, kFew, kMany}) EXPECT_EQ(why(config, as_it_is), "");
  EXPECT_EQ(why(kF8Few, as_it_is), "it multiplies fp8, the weights are bf16");
  EXPECT_EQ(why(kFew, [](GemmShape& s) { s.operands = kF8; }),
            "it multiplies bf16, the weights are fp8");
  EXPECT_EQ(why(kChunks, as_it_is), "it adds chunks, which this GEMM has not");
  EXPECT_EQ(why(kFew, [](GemmShape& s) { s.has_chunks = true; }), "it adds no chunks");
  EXPECT_EQ(why(kStream, [](GemmShape& s) { s.num_sms = 131; }),
            "its blocks take whatever multiprocessor is free, num_sms=131");
  EXPECT_EQ(why(kMany, [](GemmShape& s) { s.num_sms = 1; }),
            "it takes 2 multiprocessors at a time, num_sms=1");
  EXPECT_EQ(why(kMany, [](GemmShape& s) { s.num_sms = 2; }), "");
  EXPECT_EQ(why(kMany, [](GemmShape& s) { s.num_experts = 4096; }),
            "its shared memory has no room for E=4096");
  EXPECT_EQ(why(kFew, [](GemmShape& s) { s.num_experts = 4096; }), "");
  EXPECT_EQ(why(kStream, [](GemmShape& s) { s.num_experts = INT64_MAX; }),
            cat("its shared memory has no room for E=", INT64_MAX));
}

// ---- of a layer

// qwen3-30b-a3b on an H100.
StrategyRequest on_hopper(int64_t max_tokens) {
  StrategyRequest r;
  r.config.hidden = 2048;
  r.config.intermediate = 768;
  r.config.num_experts = 128;
  r.config.top_k = 8;
  r.max_tokens = max_tokens;
  r.device.kind = DeviceKind::Cuda;
  r.device.name = "a test's";
  r.device.compute_major = 9;
  r.device.num_sms = 132;
  r.device.read_gbps = 1;  // no table is of it
  return r;
}

std::string message_of(const StrategyRequest& r) {
  return testing::message_of(Errc::Unsupported, [&] { choose_strategy(r); });
}

TEST(NamedGemms, AreWhatTheStrategyRunsAndSaysSo) {
  StrategyRequest r = on_hopper(4096);
  r.gemm2 = kFew;
  EXPECT_EQ(choose_strategy(r).gemms,
            cat("GEMM1 ", kMany, " (by rule); GEMM2 ", kFew, " (asked for)"));
  r.gemm1 = kStream;
  EXPECT_EQ(choose_strategy(r).gemms,
            cat("GEMM1 ", kStream, " (asked for); GEMM2 ", kFew, " (asked for)"));
}

TEST(NamedGemms, AreThoseOfTheExpertsDtype) {
  StrategyRequest r = on_hopper(4096);
  r.experts = DType::F8E4m3;
  EXPECT_NE(choose_strategy(r).gemms.find(", fp8, rows first (by rule); GEMM2"), std::string::npos)
      << choose_strategy(r).gemms;
  r.gemm1 = kF8Few;
  EXPECT_TRUE(choose_strategy(r).gemms.starts_with(cat("GEMM1 ", kF8Few, " (asked for)")));
  r.gemm1 = kFew;
  EXPECT_NE(message_of(r).find(cat("gemm1=", kFew, ", it multiplies bf16, the weights are fp8)")),
            std::string::npos)
      << message_of(r);
}

TEST(NamedGemms, ThatCannotDoTheLayerAreRefused) {
  const auto refusal = [](auto change) {
    StrategyRequest r = on_hopper(64);
    change(r);
    return message_of(r);
  };
  const auto names = [](const std::string& message, const std::string& part) {
    EXPECT_NE(
        message.find("a GEMM runs in a configuration of hopper's that can do it (saw " + part),
        std::string::npos)
        << message << "\n"
        << part;
  };
  names(refusal([](auto& r) { r.gemm1 = "64x128"; }), "gemm1=64x128, there are 8x32x128, 4 stages");
  names(refusal([](auto& r) { r.gemm2 = "?"; }), "gemm2=?, there are 8x32x128, 4 stages");
  names(refusal([](auto& r) { r.gemm1 = kF8Few; }), cat("gemm1=", kF8Few, ", it multiplies fp8"));
  names(refusal([](auto& r) { r.gemm2 = kChunks; }), cat("gemm2=", kChunks, ", it adds chunks"));
  names(refusal([](auto& r) { r.gemm1 = kMany, r.num_sms = 1; }),
        cat("gemm1=", kMany, ", it takes 2 multiprocessors"));
  names(refusal([](auto& r) { r.gemm1 = kFew, r.strategy = "masked+cublas"; }),
        cat("gemm1=", kFew, ", cublas has no configurations)"));
  names(refusal([](auto& r) { r.gemm2 = kFew, r.device = {}; }),
        cat("gemm2=", kFew, ", cpu has no configurations)"));
  // All of a device's multiprocessors are no limit.
  EXPECT_EQ(refusal([](auto& r) { r.gemm1 = kStream, r.num_sms = 132; }), "");
  EXPECT_NE(refusal([](auto& r) { r.gemm1 = kStream, r.num_sms = 131; }), "");
  // What a text lists can be said.
  const GemmCandidates first = gemm_candidates(on_hopper(64))[0];
  for (const auto& config : first.configs)
    EXPECT_EQ(refusal([&](auto& r) { r.gemm1 = r.gemm2 = config; }), "") << config;
}

// No condition divides by what another one refuses.
TEST(NamedGemms, OfShapesThatMeanNothingAreRefusedForThose) {
  StrategyRequest r = on_hopper(64);
  r.gemm1 = kFew;
  r.num_ranks = 0;
  EXPECT_NE(message_of(r).find("there are ranks (saw P=0)"), std::string::npos) << message_of(r);
}

TEST(GemmCandidates, AreOfBothGemmsAtTheCapacity) {
  StrategyRequest r = on_hopper(512);
  const auto [first, second] = gemm_candidates(r);
  EXPECT_EQ(std::tuple(first.num_experts, first.n, first.k, first.rows, first.gated),
            std::tuple(128, 1536, 2048, 4096, true));
  EXPECT_EQ(std::tuple(second.num_experts, second.n, second.k, second.rows, second.gated),
            std::tuple(128, 2048, 768, 4096, false));
  EXPECT_EQ(first.by_rule, kFew);  // 32 rows an expert
  EXPECT_EQ(first.chosen, kFew);
  const auto can = std::ranges::count_if(
      kGemmConfigs, [](const auto& c) { return !c.scaled() && !c.adds_chunks; });
  for (const GemmCandidates& c : {first, second}) {
    EXPECT_EQ(std::ssize(c.configs), can);
    EXPECT_NE(std::ranges::find(c.configs, c.by_rule), c.configs.end());
  }
  r.config.activation.kind = ActivationKind::Relu2;
  EXPECT_EQ(gemm_candidates(r)[0].n, 768);
  EXPECT_FALSE(gemm_candidates(r)[0].gated);
  r.num_ranks = 4;
  EXPECT_EQ(gemm_candidates(r)[1].num_experts, 32);
  EXPECT_EQ(gemm_candidates(r)[1].rows, 4 * 4096);
  r.gemm2 = kStream;
  EXPECT_EQ(gemm_candidates(r)[1].chosen, kStream);
  EXPECT_EQ(gemm_candidates(r)[1].by_rule, kMany);  // 128 rows of each of 32 experts
  r.gemm2 = "none";
  EXPECT_EQ(gemm_candidates(r)[1].chosen, kMany);
}

}  // namespace
}  // namespace switchyard
