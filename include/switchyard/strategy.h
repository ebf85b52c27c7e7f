// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/strategy.h -- public: which dispatcher, executor and GEMM provider, and why.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/backend.h"
#include "switchyard/config.h"

namespace [[gnu::visibility("default")]] switchyard {

/// How rows are grouped by expert.
enum class Layout {
  Contiguous,  // groups one after the other, each padded to the alignment
  Masked,      // [E_local, capacity, H], the first counts[e] rows of each block are valid
};
enum class DispatcherKind {
  Local,       // nothing moves: P = 1, or tp = P and every rank holds all tokens
  Normal,      // one row per (token, owning rank)
  LowLatency,  // the same for few tokens, in fewer steps
  AllGather,   // all rows to all ranks, sums back; the baseline
};
enum class ExecutorKind { Contiguous, Masked, Hybrid };
/// Who multiplies. On CUDA every dispatcher and executor goes with either of the last two.
enum class GemmProvider {
  Cpu,
  Hopper,  // our kernels: TMA and wgmma, compute capability 9.0 exactly
  Cublas,  // the fallback and baseline. Masked: one batch over the capacity, padding computed, too;
           // contiguous: an expert at a time, which needs the counts on the host
};

const char* layout_name(Layout layout) noexcept;  // "contiguous", "masked"
const char* dispatcher_name(
    DispatcherKind kind) noexcept;  // "local", "normal", "low_latency", "all_gather"
const char* executor_name(ExecutorKind kind) noexcept;      // "contiguous", "masked", "hybrid"
const char* provider_name(GemmProvider provider) noexcept;  // "cpu", "hopper", "cublas"

/// What a layer is planned by, beside its config: the choices that every rank shares.
struct PlanOptions {
  int64_t max_tokens = 4096;  // capacity: most tokens of one rank in one call; >= 0
  /// The user's word: auto, [dispatcher+]executor[+provider], or a known name.
  std::string strategy = "auto";
  int64_t masked_max_tokens = 256;      // hybrid: masked layout up to this many rows, inclusive
  int64_t alignment = 1;                // of contiguous groups, >= 1
  bool allow_repeated_experts = false;  // a token's ids may repeat; masked buffers grow by K
  int tp_size = 1;                      // consecutive ranks that hold the same tokens
  bool use_all_gather = true;           // lets `auto` skip communication where tp = P
  /// A larger workspace is refused, with its bytes.
  int64_t workspace_limit_bytes = int64_t{8} << 30;
  /// CUDA: multiprocessors that Hopper's GEMMs may use, at most the device's; 0: all. Chooses tiles,
  /// no strategy, and changes no bit. A lent backend has its own number, which counts then.
  int num_sms = 0;
  /// Several ranks: pieces that the tokens of a call at the capacity are cut into, so that one
  /// travels while another is computed (CUDA); 0: chosen by the cost model, 1: whole. Changes no
  /// bit.
  int token_pieces = 0;
  /// CUDA, several ranks: where a call is whole, the normal dispatcher leaves token rows with their
  /// source until the executor's scatter fetches them. Else they are pushed to the ranks that own
  /// their experts before these compute, which is slower. Changes no bit.
  bool fetch_rows = true;
  /// low_latency: rows of experts come back, one for each choice of a token, and its rank sums them, in
  /// the order of the choices, rounding once: the bits of one rank, and K rows back in place of one
  /// from each rank.
  bool sums_at_source = false;
  /// CUDA: contiguous groups over cuBLAS may read counts on the host, and so may the normal
  /// dispatcher over NCCL, which then sends exactly the rows that there are. forward then waits for
  /// its stream and cannot be captured. No other strategy reads them, whatever this says.
  bool host_counts = false;
  /// CUDA, several ranks: kernels may reach the memory of other ranks of the host. Else rows travel
  /// over NCCL, as between hosts; workspace_bytes then gives what those need. Changes no bit. Ranks
  /// that are threads of one process: docs/guide/ranks.md, "Threads over NCCL".
  bool peer_memory = true;
  /// Of the routed experts' weights: Bf16, or F8E4m3. A layer takes it from its
  /// weights.
  DType experts = DType::Bf16;
  /// Several ranks, experts in f8_e4m3: token rows travel quantised, with their scales, half the bytes.
  /// Else they travel in bf16, and are quantised where their experts are. Changes no bit.
  bool fp8_rows = true;
  /// Several ranks, at most 64, over low_latency and memory that they reach in each other: not 0, a
  /// rank that does not come within this time, up to a year, ends one call with an error, not the
  /// layer. See MoeLayer::set_active_ranks.
  std::chrono::milliseconds lost_rank_timeout{0};
  /// Hopper: the configuration of the routed experts' first grouped GEMM, and of their second, at any
  /// number of rows: a name of gemm_candidates. Empty: chosen. Changes no bit.
  std::string gemm1;
  std::string gemm2;

  bool operator==(const PlanOptions&) const = default;
};

/// Everything the choice depends on. Equal on every rank, so ranks agree without talking. Its
/// peer_memory says that ranks can and may reach each other's memory.
struct StrategyRequest : PlanOptions {
  MoeConfig config;
  DType dtype = DType::Bf16;          // of activations
  std::string quantization;           // "" is none; anything else is refused by the bf16 strategies
  int num_ranks = 1;                  // P
  std::string transport = "threads";  // of the communicator
  bool use_low_latency = false;       // rtp-llm's deepep_low_latency: `auto` takes low_latency
  bool cuda_graph = false;            // the caller will capture forward
  bool has_nccl = false;              // see has_nccl() in communicator.h
  DeviceDescription device;
};

/// One rule with the value it saw: {"E % P == 0 (saw E=128, P=4)", true}.
struct Condition {
  std::string text;
  bool holds = false;
};

struct Strategy {
  std::string name;  // canonical: "normal+hybrid", "local+masked+cublas"
  DispatcherKind dispatcher = DispatcherKind::Local;
  ExecutorKind executor = ExecutorKind::Contiguous;
  GemmProvider provider = GemmProvider::Cpu;
  bool opt_in = false;          // never chosen by auto
  int64_t workspace_bytes = 0;  // executor and dispatcher at the capacity
  double predicted_us = 0;      // by the cost model, an even gate assumed
  /// Pieces that the tokens of a call at the capacity are cut into, so that one travels while
  /// another is computed; 1: nothing overlaps. A smaller call has fewer of them, as large.
  int token_pieces = 1;
  /// Normal over peer memory: rows stay with their source until the executor's scatter fetches them
  /// over the link. Else they are pushed before, as pieces of a call are, which overlap.
  bool fetch_rows = false;
  /// Hopper: the compiled tiles of its GEMMs at the capacity, "GEMM1 256x128x64, 4 stages, cluster
  /// of 2 (by rule); GEMM2 ..." (at most so many rows x weight rows x inner dimension), and whose word
  /// they are: the rule's, that of a table of measured times, or the caller's ("asked for"). Hybrid:
  /// for either layout where they differ. Empty for every other provider.
  std::string gemms;
  /// CUDA, several ranks: what carries rows between them, "kernels, pushed into ..." or "NCCL,
  /// in ...". Empty elsewhere.
  std::string carrier;
  /// What token rows travel as: Bf16, or F8E4m3 with a scale for each 128 numbers of a row.
  DType rows = DType::Bf16;
  std::string reason;  // one line
  std::vector<Condition> conditions;
  std::vector<std::string> warnings;  // e.g. the name is a deprecated alias

  bool holds() const {
    for (const Condition& c : conditions)
      if (!c.holds) return false;
    return true;
  }
};

/// Every strategy with every condition and the value it saw; what `switchyard explain` prints.
std::vector<Strategy> evaluate_strategies(const StrategyRequest& request);

/// Pure: equal requests give equal answers. `auto` takes the cheapest strategy that holds, is not
/// opt-in and uses the dispatcher that the ranks call for. A name takes that one or throws.
/// Throws Error(Unsupported): an unknown name (with all names and the nearest one), a recognised
/// one that is not provided yet (with the nearest that is), or failed conditions (each with its
/// value).
Strategy choose_strategy(const StrategyRequest& request);

/// A grouped GEMM of a layer's routed experts at the request's capacity: weights [num_experts, n, k]
/// of a rank, at most `rows` rows of all of them.
struct GemmCandidates {
  int64_t num_experts = 0, n = 0, k = 0, rows = 0;
  bool gated = false;                // n is gate and up
  std::vector<std::string> configs;  // that can do it, as PlanOptions::gemm1 takes them
  std::string by_rule;               // of these
  std::string chosen;  // the caller's, or that of a table of measured times, or the rule's
};
/// GEMM1 and GEMM2 over Hopper's kernels. Pure. A gemm1 or gemm2 of the request that is none of their
/// configs does not count here; choose_strategy refuses it.
std::array<GemmCandidates, 2> gemm_candidates(const StrategyRequest& request);

/// A name that --strategy accepts.
struct StrategyName {
  std::string name;
  std::string canonical;  // what it means here: "normal+hybrid"; empty when not provided
  std::string kind;       // "combination", "reference", "alias", "not provided yet"
  std::string note;
};
std::vector<StrategyName> strategy_names();

}  // namespace switchyard
