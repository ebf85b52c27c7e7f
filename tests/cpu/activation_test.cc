// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cpu/activation_test.cc -- every activation against its definition in float64, written down
// once more.
#include "cpu/grouped_gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>

namespace switchyard::cpu {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double clamp(double x, double limit) {
  return std::clamp(x, -limit, limit);
}

using Definition = double (*)(double gate, double up, double alpha, double limit);

const std::map<std::string, Definition> kDefinitions = {
    {"silu", [](double g, double u, double, double) { return g * sigmoid(g) * u; }},
    {"gelu",
     [](double g, double u, double, double) { return g * std::erfc(-g / M_SQRT2) / 2 * u; }},
    {"gelu_tanh",
     [](double g, double u, double, double) {
       return g / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * std::pow(g, 3)))) * u;
     }},
    {"clamped_swiglu",
     [](double g, double u, double a, double l) {
       const double x = std::min(g, l);
       return x * sigmoid(a * x) * (clamp(u, l) + 1);
     }},
    {"relu2", [](double x, double, double, double) { return x > 0 ? x * x : 0.0; }},
    {"silu_of_clamped",
     [](double g, double u, double, double l) {
       const double x = std::min(g, l);
       return x * sigmoid(x) * clamp(u, l);
     }},
    {"clamped_silu", [](double g, double u, double,
                        double l) { return std::min(g * sigmoid(g), l) * clamp(u, l); }},
    {"situ", [](double g, double u, double a,
                double l) { return a * std::tanh(g / a) * sigmoid(g) * l * std::tanh(u / l); }},
    {"relu2_gated", [](double g, double u, double, double) { return g > 0 ? g * g * u : 0.0; }},
};

TEST(Activation, EachIsItsDefinitionInFloat64) {
  std::mt19937_64 rng(7);
  std::normal_distribution<float> sums(0, 4);
  for (const ActivationKind kind : Activations::kAll) {
    const auto definition = kDefinitions.find(activation_name(kind));
    ASSERT_NE(definition, kDefinitions.end()) << activation_name(kind) << " has no definition here";
    for (int i = 0; i < 2000; ++i) {
      const float gate = sums(rng), up = sums(rng);
      const Activation a{kind, 1.25f, 2.5f};
      const double expected = definition->second(gate, up, a.alpha, a.limit);
      // A few roundings, and those of a tail that cancels in 1 + tanh or 1 + erf.
      EXPECT_NEAR(activate(a, gate, up), expected,
                  1e-6 * (std::abs(expected) + std::abs(gate * up)))
          << activation_name(kind) << " of " << gate << ", " << up;
    }
  }
}

TEST(Activation, KeepsNanAndEndsAtInfinity) {
  for (const ActivationKind kind : Activations::kAll) {
    const Activation a{kind, 1.25f, 2.5f};
    EXPECT_TRUE(std::isnan(activate(a, NAN, 1.0f))) << activation_name(kind);
    EXPECT_EQ(std::isnan(activate(a, 1.0f, NAN)), a.gated()) << activation_name(kind);
    EXPECT_FALSE(std::isnan(activate(a, 1e30f, 1.0f))) << activation_name(kind);
  }
}

TEST(Activation, NamesAreOfOneKindEach) {
  std::map<std::string, ActivationKind> seen;
  for (const ActivationKind kind : Activations::kAll)
    Activations::visit(kind, [&]<ActivationKind k>() {
      for (const char* name : ActivationRule<k>::kNames) {
        EXPECT_TRUE(seen.emplace(name, kind).second) << name;
        EXPECT_EQ(activation_from_name(name).kind, kind) << name;
      }
    });
}

}  // namespace
}  // namespace switchyard::cpu
