// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "gemm_times.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace switchyard::cli {
namespace {

// Three configurations, "b" the rule's and "c" what is chosen now.
GemmTimes three() {
  return GemmTimes(512, 1,
                   {.num_experts = 128,
                    .n = 1536,
                    .k = 2048,
                    .rows = 4096,
                    .gated = true,
                    .configs = {"a", "b", "c"},
                    .by_rule = "b",
                    .chosen = "c"});
}

GemmTimes timed(double a, double b, double c) {
  GemmTimes t = three();
  t.find("a")->rounds_us = {a}, t.find("b")->rounds_us = {b}, t.find("c")->rounds_us = {c};
  return t;
}

DeviceDescription device() {
  DeviceDescription d;
  d.name = "NVIDIA H200";
  d.num_sms = 132, d.read_gbps = 4474.3;
  return d;
}

TEST(GemmTimes, ATimeIsTheMedianOfItsRounds) {
  const auto us = [](std::vector<double> rounds) { return ConfigTime{"a", 1, rounds}.us(); };
  EXPECT_EQ(us({3, 1, 2}), 2);
  EXPECT_EQ(us({9, 1, 5, 7, 3}), 5);
  EXPECT_TRUE(std::isinf(us({})));
}

TEST(GemmTimes, TheBestIsComparedWithTheRules) {
  EXPECT_EQ(timed(10, 20, 40).best(), "a");
  EXPECT_EQ(timed(10, 20, 40).gain(), 2);
  EXPECT_EQ(timed(20, 20, 10).best(), "c");
  EXPECT_EQ(timed(20, 10, 20).best(), "b");
  EXPECT_EQ(timed(20, 10, 20).gain(), 1);
  EXPECT_EQ(three().best(), "b");  // nothing was timed
  EXPECT_EQ(three().gain(), 1);
  EXPECT_EQ(three().us_of("d"), three().us_of("a"));  // infinite
  GemmTimes rule_has_none = timed(10, 20, 40);
  rule_has_none.find("b")->rounds_us.clear();
  EXPECT_EQ(rule_has_none.best(), "a");
  EXPECT_EQ(rule_has_none.gain(), 1);
}

TEST(GemmTimes, ATableHasWhatTakesLessThanTheRulesByMoreThanNoise) {
  EXPECT_TRUE(timed(1000, 1015, 2000).belongs_in_table());
  EXPECT_FALSE(timed(1000, 1014, 2000).belongs_in_table());
  EXPECT_FALSE(timed(1000, 900, 2000).belongs_in_table());
  EXPECT_TRUE(timed(2000, 1100, 1000).belongs_in_table());  // also what is chosen now
  EXPECT_FALSE(three().belongs_in_table());
  GemmTimes rounds = three();
  rounds.find("b")->rounds_us = {120, 130, 110};
  rounds.find("a")->rounds_us = {100, 101, 109};
  EXPECT_TRUE(rounds.belongs_in_table());
  rounds.find("a")->rounds_us.back() = 110;  // once it was no faster
  EXPECT_FALSE(rounds.belongs_in_table());
}

TEST(GemmTimes, WhatIsFarBehindAtAFirstLookIsNotTimedFurther) {
  GemmTimes t = three();
  const auto contends = [&](const char* config) { return t.is_contender(*t.find(config)); };
  t.find("a")->first_us = 100, t.find("b")->first_us = 900, t.find("c")->first_us = 800;
  EXPECT_TRUE(contends("a"));
  EXPECT_TRUE(contends("b") && contends("c"));  // the others are compared with them
  t.find("c")->first_us = 40, t.find("a")->first_us = 60;
  EXPECT_TRUE(contends("a"));
  t.find("a")->first_us = 61;
  EXPECT_FALSE(contends("a"));
  t.find("c")->first_us = 0;  // refused: it is no measure of others
  EXPECT_FALSE(contends("c"));
  EXPECT_TRUE(contends("a"));
}

TEST(GemmTimes, TheTableHasALineForEachThatBelongsInIt) {
  GemmTimes second = timed(300, 100, 70);
  second.gemm = 2;
  second.shape.n = 2048, second.shape.k = 768, second.shape.gated = false;
  const std::string text =
      table_of({timed(100, 110, 300), timed(100, 101, 300), second}, device(), DType::Bf16);
  const std::string head =
      "# Grouped GEMMs that take less in another configuration than in the rule's, at least 1.5 "
      "%.\n# gpu; SMs; reads GB/s; experts in; E; N; K; gate; rows; configuration; the rule's time "
      "over its\n";
  EXPECT_EQ(text, head +
                      "NVIDIA H200; 132; 4474; bf16; 128; 1536; 2048; gated; 4096; a; 1.100\n"
                      "NVIDIA H200; 132; 4474; bf16; 128; 2048; 768; plain; 4096; c; 1.429\n");
  EXPECT_EQ(table_of({timed(100, 101, 300)}, device(), DType::F8E4m3), head);
}

TEST(GemmTimes, JsonHasAllOfIt) {
  GemmTimes t = timed(100, 110, 300);
  t.find("a")->rounds_us = {90, 110, 100};
  t.find("b")->rounds_us = {110, 111, 105};
  t.find("a")->first_us = 120;
  t.find("c")->rounds_us.clear();
  t.find("c")->problem = "other bits";
  const nlohmann::json times = {{{"config", "a"},
                                 {"us", 100.0},
                                 {"first_us", 120.0},
                                 {"us_of_rounds", {90.0, 110.0, 100.0}},
                                 {"problem", ""}},
                                {{"config", "b"},
                                 {"us", 110.0},
                                 {"first_us", 0.0},
                                 {"us_of_rounds", {110.0, 111.0, 105.0}},
                                 {"problem", ""}},
                                {{"config", "c"},
                                 {"us", nullptr},
                                 {"first_us", 0.0},
                                 {"us_of_rounds", nlohmann::json::array()},
                                 {"problem", "other bits"}}};
  const nlohmann::json expected = {
      {"tokens", 512},       {"gemm", 1},        {"experts", 128}, {"n", 1536},     {"k", 2048},
      {"gated", true},       {"rows", 4096},     {"by_rule", "b"}, {"chosen", "c"}, {"best", "a"},
      {"gain", 110.0 / 100}, {"in_table", true}, {"times", times}};
  EXPECT_EQ(json_of(t), expected);
}

}  // namespace
}  // namespace switchyard::cli
