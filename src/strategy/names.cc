// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/names.cc
#include "strategy/names.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "base/require.h"

namespace switchyard {
namespace {

// Names of the reference system, rtp-llm. Those without a kind are recognised only.
struct ReferenceName {
  std::string_view name;
  std::string_view means;    // a combination of ours; empty: not provided yet
  std::string_view instead;  // the nearest that is

  DType experts() const { return name.starts_with("fp8") ? DType::F8E4m3 : DType::Bf16; }
};
constexpr std::array kReferenceNames = {
    ReferenceName{"no_quant_ep_low_latency", "low_latency+masked", ""},
    ReferenceName{"no_quant_cpp", "local+contiguous", ""},
    ReferenceName{"no_quant_dp_normal", "contiguous", ""},
    ReferenceName{"no_quant_dp_normal_deepgemm", "hybrid", ""},
    ReferenceName{"fp8_per_block_no_dp", "local+hybrid", ""},
    ReferenceName{"fp8_per_block_no_dp_masked", "local+masked", ""},
    ReferenceName{"fp8_per_block_ep_low_latency", "low_latency+masked", ""},
    ReferenceName{"fp8_per_block_ep_normal", "normal+hybrid", ""},
    ReferenceName{"fp8_per_block_pure_cp", "all_gather+hybrid", ""},
    ReferenceName{"fp8_per_block_pure_dp", "all_gather+masked", ""},
    ReferenceName{"fp8_per_tensor_no_dp", "local+contiguous", ""},
    ReferenceName{"fp8_per_tensor_ep_low_latency", "low_latency+masked", ""},
    ReferenceName{"fp8_per_tensor_ep_normal", "normal+contiguous", ""},
    ReferenceName{"w4a8_int4_per_channel_no_dp", "", "no_quant_cpp"},
    ReferenceName{"w4a8_int4_per_channel_ep_low_latency", "", "no_quant_ep_low_latency"},
    ReferenceName{"w4a8_int4_per_channel_ep_normal", "", "no_quant_dp_normal"},
    ReferenceName{"fp4_no_dp", "", "no_quant_cpp"},
    ReferenceName{"fp4_ep_low_latency", "", "no_quant_ep_low_latency"},
    ReferenceName{"fp4_ep_normal", "", "no_quant_dp_normal"},
};

// Spellings the reference system once shipped.
struct Alias {
  std::string_view name, canonical;
};
constexpr std::array kAliases = {
    Alias{"no_auant_ep_low_latency", "no_quant_ep_low_latency"},
    Alias{"no_auant_cpp", "no_quant_cpp"},
    Alias{"no_auant_dp_normal", "no_quant_dp_normal"},
};

template <class Kinds, class Name>
auto kind_from(std::string_view name, const Kinds& kinds, Name name_of) {
  const auto at =
      std::ranges::find(kinds, name, [&](auto kind) -> std::string_view { return name_of(kind); });
  return at == kinds.end() ? std::nullopt : std::optional(*at);
}

std::optional<DispatcherKind> dispatcher_from(std::string_view name) {
  if (name == "all-gather") return DispatcherKind::AllGather;
  if (name == "low-latency") return DispatcherKind::LowLatency;
  return kind_from(name, kDispatchers, dispatcher_name);
}

// "[dispatcher+]executor[+provider]".
std::optional<NamedChoice> parse_combination(std::string_view name) {
  NamedChoice choice;
  if (const size_t plus = name.rfind('+'); plus != std::string_view::npos) {
    choice.provider = kind_from(name.substr(plus + 1), kCudaProviders, provider_name);
    if (choice.provider) name.remove_suffix(name.size() - plus);
  }
  if (const size_t plus = name.find('+'); plus != std::string_view::npos) {
    choice.dispatcher = dispatcher_from(name.substr(0, plus));
    if (!choice.dispatcher) return {};
    name.remove_prefix(plus + 1);
  }
  const auto executor = kind_from(name, kExecutors, executor_name);
  if (!executor) return {};
  choice.executor = *executor;
  return choice;
}

std::optional<NamedChoice> parse_reference_name(std::string_view name) {
  for (const auto& r : kReferenceNames) {
    if (r.name != name) continue;
    NamedChoice choice;
    if (!r.means.empty()) {
      choice = parse_combination(r.means).value();
      choice.experts = r.experts();
      return choice;
    }
    choice.not_provided =
        cat("recognised, but not provided yet. The nearest that is: ", r.instead, ".");
    return choice;
  }
  return {};
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j)
      diagonal = std::exchange(row[j + 1],
                               std::min({row[j + 1] + 1, row[j] + 1, diagonal + (a[i] != b[j])}));
  }
  return row.back();
}

}  // namespace

const char* layout_name(Layout layout) noexcept {
  return layout == Layout::Contiguous ? "contiguous" : "masked";
}

const char* dispatcher_name(DispatcherKind kind) noexcept {
  switch (kind) {
    case DispatcherKind::Local: return "local";
    case DispatcherKind::Normal: return "normal";
    case DispatcherKind::LowLatency: return "low_latency";
    case DispatcherKind::AllGather: return "all_gather";
  }
  return "unknown";
}

const char* executor_name(ExecutorKind kind) noexcept {
  switch (kind) {
    case ExecutorKind::Contiguous: return "contiguous";
    case ExecutorKind::Masked: return "masked";
    case ExecutorKind::Hybrid: return "hybrid";
  }
  return "unknown";
}

const char* provider_name(GemmProvider provider) noexcept {
  switch (provider) {
    case GemmProvider::Cpu: return "cpu";
    case GemmProvider::Hopper: return "hopper";
    case GemmProvider::Cublas: return "cublas";
  }
  return "unknown";
}

std::string canonical_name(const Combination& c) {
  return cat(dispatcher_name(c.dispatcher), "+", executor_name(c.executor),
             c.provider == GemmProvider::Cublas ? "+cublas" : "");
}

std::vector<StrategyName> strategy_names() {
  std::vector<StrategyName> names{{"auto", "", "automatic", "the cheapest whose conditions hold"}};
  for (const auto executor : kExecutors)
    names.push_back({executor_name(executor), cat("[local or normal]+", executor_name(executor)),
                     "combination", "local for one rank, normal otherwise"});
  for (const auto dispatcher : kDispatchers)
    for (const auto executor : kExecutors) {
      const auto name = canonical_name({dispatcher, executor});
      names.push_back({name, name, "combination", ""});
    }
  for (const auto& r : kReferenceNames)
    names.push_back({std::string(r.name), std::string(r.means),
                     r.means.empty() ? "not provided yet" : "reference",
                     r.means.empty() ? cat("nearest: ", r.instead) : std::string()});
  for (const auto& a : kAliases)
    names.push_back({std::string(a.name), std::string(a.canonical), "alias",
                     cat("deprecated; say ", a.canonical)});
  return names;
}

NamedChoice parse_strategy_name(std::string_view name) {
  for (const auto& a : kAliases) {
    if (a.name != name) continue;
    NamedChoice choice = parse_strategy_name(a.canonical);
    choice.warning = cat("strategy: name=", name, " is deprecated, it was a misspelling. Say ",
                         a.canonical, ".");
    return choice;
  }
  if (auto choice = parse_combination(name)) return *choice;
  if (auto choice = parse_reference_name(name)) return *choice;

  std::vector<std::string> all, candidates;
  for (const auto& n : strategy_names()) {
    all.push_back(n.name);
    candidates.push_back(n.name);
    if (n.kind != "combination") continue;
    for (const auto provider : kCudaProviders)
      candidates.push_back(cat(n.name, "+", provider_name(provider)));
  }
  const auto nearest = std::ranges::min_element(
      candidates, {}, [&](const auto& each) { return edit_distance(name, each); });
  throw Error(Errc::Unsupported, cat("strategy: name=", name, ", is unknown. Did you mean ",
                                     *nearest, "? Names: ", joined(all),
                                     "; on CUDA a combination may end with +hopper or +cublas."));
}

}  // namespace switchyard
