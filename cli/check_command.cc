// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/check_command.cc -- switchyard check: the product verifies itself on this machine, against
// float64.
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "commands.h"
#include "device.h"
#include "layer_options.h"
#include "ranks.h"
#include "routing.h"
#include "switchyard/oracle.h"

namespace switchyard::cli {
namespace {

struct CheckArguments {
  const CLI::App* command = nullptr;
  std::string device = "cpu", transport;
  int ranks = 0;
  uint64_t seed = 0;
  bool json = false;
  bool no_peer_memory = false;
};

constexpr double kTolerance = 4e-3, kRowTolerance = 2e-2;

enum class Skew { Balanced, Zipf, OneHot, EmptyExperts, NoExpert };

// What one line checks: one layer on one routing, over ranks and strategies.
struct Case {
  std::string name;
  MoeConfig config;
  int64_t tokens = 0;
  Skew skew = Skew::Balanced;
  bool by_gate = false;  // the layer's gate chooses instead of given ids
};

struct Result {
  double rel_error = 0, max_row_error = 0;
  std::string failure;  // empty: good
};

MoeConfig shape(int64_t h, int64_t i, int64_t e, int64_t k) {
  MoeConfig c;
  c.hidden = h, c.intermediate = i, c.num_experts = e, c.top_k = k;
  return c;
}

std::vector<Case> shapes_and_skews() {
  std::vector<Case> all;
  const std::pair<Skew, const char*> skews[] = {{Skew::Balanced, "balanced"},
                                                {Skew::Zipf, "Zipf"},
                                                {Skew::OneHot, "one hot expert"},
                                                {Skew::EmptyExperts, "empty experts"},
                                                {Skew::NoExpert, "no expert at all"}};
  for (const auto& c :
       {shape(64, 96, 4, 1), shape(704, 96, 8, 2), shape(256, 704, 60, 10), shape(2880, 64, 16, 4)})
    for (const auto& [skew, word] : skews)
      all.push_back({fmt::format("H {} I {} E {} K {}, {}", c.hidden, c.intermediate, c.num_experts,
                                 c.top_k, word),
                     c, 37, skew});
  for (const int64_t t : {0, 1, 3, 129})
    all.push_back({fmt::format("{} tokens", t), shape(128, 64, 8, 2), t});
  return all;
}

std::vector<Case> gates_and_activations() {
  std::vector<Case> all;
  const auto add = [&](const char* name, const GateConfig& gate = {},
                       ActivationKind activation = ActivationKind::SiluGated,
                       const SharedExpertConfig& shared = {}) -> MoeConfig& {
    MoeConfig& c =
        all.emplace_back(Case{name, shape(128, 64, 16, 4), 33, Skew::Balanced, true}).config;
    c.gate = gate;
    c.activation.kind = activation;
    c.shared = shared;
    return c;
  };
  add("softmax then top-k");
  add("softmax then top-k, renormalised", {.renormalize = true});
  MoeConfig& biased = add("top-k then softmax, biases, clamped SwiGLU",
                          {.scoring = Scoring::SoftmaxOfTopK}, ActivationKind::ClampedSwiglu);
  biased.expert_bias = biased.router_bias = true;
  add("sigmoid with correction bias in groups, shared expert",
      {.scoring = Scoring::Sigmoid,
       .renormalize = true,
       .scale = 2.5f,
       .correction_bias = true,
       .num_groups = 4,
       .num_groups_kept = 2},
      ActivationKind::SiluGated, {96});
  add("softmax in groups by their maximum",
      {.num_groups = 4, .num_groups_kept = 2, .group_score = GroupScore::Max});
  MoeConfig& weighted = add("sigmoid top-1, weight on the input", {.scoring = Scoring::Sigmoid},
                            ActivationKind::SiluGated, {64});
  weighted.top_k = 1;
  weighted.router_weight_on_input = true;
  add("sparse mixer", {.scoring = Scoring::SparseMixer}).top_k = 2;
  add("gated shared expert, GELU", {}, ActivationKind::GeluGated, {64, true});
  add("GELU by tanh", {}, ActivationKind::GeluTanhGated);
  add("squared ReLU without a gate", {}, ActivationKind::Relu2);
  return all;
}

// Distinct experts per token, by weights that fall as `skew` says.
Routing route(const Case& c, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::exponential_distribution<double> noise(1.0);
  std::uniform_real_distribution<float> weight(0.1f, 1.0f);
  const auto e = static_cast<size_t>(c.config.num_experts);
  std::vector<int32_t> order(e);
  std::vector<double> key(e);
  Routing r;
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (size_t i = 0; i < e; ++i) {
      double popularity = 1;
      if (c.skew == Skew::Zipf) popularity = 1.0 / static_cast<double>(i + 1);
      if (c.skew == Skew::OneHot && i == e / 2) popularity = 1e9;
      if (c.skew == Skew::EmptyExperts && i >= static_cast<size_t>(c.config.top_k))
        popularity = 1e-9;
      key[i] = noise(rng) / popularity;
    }
    std::iota(order.begin(), order.end(), 0);
    std::ranges::sort(order, {}, [&](int32_t expert) { return key[expert]; });
    for (int64_t k = 0; k < c.config.top_k; ++k) {
      r.ids.push_back(c.skew == Skew::NoExpert ? -1 : order[k]);
      r.weights.push_back(weight(rng));
    }
  }
  return r;
}

struct Problem {
  Rows hidden;
  Routing routing;
  std::vector<double> expected;
};

Problem make_problem(const Case& c, uint64_t seed) {
  Problem p{random_rows(c.tokens, c.config.hidden, seed), route(c, seed + 1), {}};
  p.expected.resize(c.tokens * c.config.hidden);
  const auto weights = random_weights(c.config, 1, 0, seed + 2);
  const Tensor expected(p.expected.data(), {c.tokens, c.config.hidden});
  if (c.by_gate) {
    oracle_forward(expected, c.config, weights, p.hidden.view());
  } else {
    const Shape slots{c.tokens, c.config.top_k};
    oracle_forward(expected, c.config, weights, p.hidden.view(),
                   ConstTensor(std::as_const(p.routing.ids).data(), slots),
                   ConstTensor(std::as_const(p.routing.weights).data(), slots));
  }
  return p;
}

// A CUDA backend of a rank serves all lines: making one takes longer than most of them. On the CPU
// each rank of each layer has its own.
struct Device {
  DeviceKind kind;
  bool peer_memory;
  std::mutex mutex{};
  std::map<std::pair<int, int>, std::shared_ptr<Backend>> kept{};

  // Of this rank, whose thread it becomes current on.
  std::shared_ptr<Backend> backend(const LayerOptions& options, int num_ranks, int rank) {
    if (kind == DeviceKind::Cpu) return make_backend(options, num_ranks, rank);
    const std::lock_guard lock(mutex);
    auto& mine = kept[{num_ranks, rank}];
    if (!mine) mine = make_backend(options, num_ranks, rank);
    make_current(*mine);
    return mine;
  }
};

// Collective. Runs this rank's share; every rank knows the whole output.
Rows run_rank(const Case& c, const Problem& p, Device& device, Communicator& comm,
              const Ranks& ranks, const std::string& strategy, uint64_t seed) {
  // The last of several ranks gets no tokens; the others share them evenly.
  const Shares shares(c.tokens, std::max(1, comm.size() - 1));
  const int64_t begin = shares.begin(comm.rank()), size = shares.size(comm.rank());
  LayerOptions options;
  options.max_tokens = c.tokens;
  options.strategy = strategy;
  options.num_threads = 1;
  options.device = device.kind;
  options.peer_memory = device.peer_memory;
  options.backend = device.backend(options, ranks.num_on_machine(), ranks.local(comm.rank()));
  Backend& backend = *options.backend;
  const auto stream = comm.size() > 1 ? make_stream(backend) : nullptr;
  const auto weights = random_weights(c.config, comm.size(), comm.rank(), seed + 2);
  auto layer = MoeLayer::create(
      c.config, place_weights(weights, c.config, comm.size(), options, backend), comm, options);
  const DeviceBuffer hidden(backend, device.kind, p.hidden.view().rows(begin, size));
  const DeviceBuffer written(backend, device.kind, DType::Bf16, hidden.view().shape);
  const auto place = [&](const auto& of_slots) {
    const ConstTensor all(of_slots.data(), {c.tokens, c.config.top_k});
    return DeviceBuffer(backend, device.kind, all.rows(begin, size));
  };
  const DeviceBuffer ids = place(p.routing.ids), router_weights = place(p.routing.weights);
  ForwardArgs args{.output = written.view(), .hidden = hidden.view(), .stream = stream.get()};
  if (!c.by_gate) args.ids = ids.view(), args.weights = router_weights.view();
  meet(comm);
  layer->forward(args);
  layer->wait(stream.get());
  Rows own(shares.largest(), c.config.hidden);
  written.copy_to(own.view().data);
  meet(comm);
  return shares.gather(comm, own);
}

// The whole output, where rank 0 lives; elsewhere NaN.
Rows run_layer(const Case& c, const Problem& p, Device& device, const Ranks& ranks,
               const std::string& strategy, uint64_t seed) {
  Rows out(c.tokens, c.config.hidden);
  std::memset(out.view().data, 0xff,
              out.view().bytes());  // NaN: what is not written shows
  ranks.run([&](Communicator& comm) {
    Rows whole = run_rank(c, p, device, comm, ranks, strategy, seed);
    if (comm.rank() == 0) out = std::move(whole);
  });
  return out;
}

bool same_bits(const Rows& a, const Rows& b) {
  return std::memcmp(a.view().data, b.view().data, a.view().bytes()) == 0;
}

void note_difference(Result& result, const std::string& what, const Difference& d) {
  result.rel_error = std::max(result.rel_error, d.rel_error);
  result.max_row_error = std::max(result.max_row_error, d.max_row_error);
  if (!(d.rel_error <= kTolerance && d.max_row_error <= kRowTolerance))
    result.failure = fmt::format("{}: error {:.3e}, row {} {:.3e}", what, d.rel_error, d.worst_row,
                                 d.max_row_error);
}

struct Plan {
  std::vector<int> ranks;
  std::vector<std::string> same_bits;  // the first one's, of every layout
  std::vector<std::string> close;      // another order of summation: within the tolerance
};

// What this device can run: Hopper's kernels and the fallback where there is one GPU of that kind.
Plan plan_for(DeviceKind device, int ranks) {
  const std::vector<std::string> all = {"contiguous", "masked", "hybrid", "all_gather+contiguous"};
  if (device == DeviceKind::Cpu)
    return {ranks > 0 ? std::vector<int>{ranks} : std::vector<int>{1, 2, 4}, all, {}};
  const auto& gpu = describe_device(device);
  const bool hopper = gpu.compute_major == 9 && gpu.compute_minor == 0;
  if (ranks > 1) return {{ranks}, all, {}};
  if (!hopper) return {{1}, {"masked+cublas"}, {}};
  return {{1}, {"contiguous", "masked", "hybrid"}, {"masked+cublas"}};
}

// Every layout on every number of ranks, the first one twice.
Result check_case(const Case& c, Device& device, const Ranks& ranks, uint64_t seed) {
  Result result;
  const Problem p = make_problem(c, seed);
  const ConstTensor expected(p.expected.data(), {c.tokens, c.config.hidden});
  const Plan plan = plan_for(device.kind, ranks.size());
  for (const int num_ranks : plan.ranks) {
    const Ranks threads("threads", num_ranks);
    const auto run = [&](const std::string& strategy) {
      return run_layer(c, p, device, ranks.are_threads() ? threads : ranks, strategy, seed);
    };
    const std::string& base = plan.same_bits.front();
    const Rows first = run(base);
    note_difference(result, fmt::format("{} ranks", num_ranks), compare(first.view(), expected));
    for (const auto& strategy : plan.same_bits)
      if ((num_ranks > 1 || !strategy.starts_with("all")) && !same_bits(run(strategy), first))
        result.failure =
            fmt::format("{} on {} ranks: other bits than {}", strategy, num_ranks, base);
    for (const auto& strategy : plan.close)
      note_difference(result, strategy, compare(run(strategy).view(), expected));
  }
  return result;
}

std::string what_is_checked(DeviceKind device, int ranks) {
  if (ranks > 1 || (ranks == 1 && device == DeviceKind::Cpu))
    return fmt::format("each on {} ranks and in every layout", ranks);
  return device == DeviceKind::Cpu ? "each on 1, 2, 4 ranks and in every layout"
                                   : "each on one GPU, in every layout and over cublas";
}

// What was found, line by line and in sum. Without rows nothing was compared, and nothing is good.
class Report {
 public:
  Report(const std::vector<Case>& cases, bool shows_progress) : num_cases_(cases.size()) {
    for (const Case& c : cases) name_width_ = std::max(name_width_, c.name.size());
    const size_t numbers = 24;
    name_width_ = std::min(name_width_, std::max<size_t>(console_width(), numbers + 16) - numbers);
    if (shows_progress) progress_ = progress_on_terminal("checking");
  }

  void add(const Case& c, const Result& r) {
    num_failed_ += !r.failure.empty();
    num_empty_ += r.failure.empty() && c.tokens == 0;
    lines_.push_back({{"name", c.name},
                      {"rows", c.tokens},
                      {"rel_error", r.rel_error},
                      {"max_row_error", r.max_row_error},
                      {"failure", r.failure}});
    if (progress_) progress_(lines_.size(), num_cases_);
  }
  int64_t num_good() const {
    return static_cast<int64_t>(lines_.size()) - num_failed_ - num_empty_;
  }
  bool is_good() const { return num_failed_ == 0 && num_good() > 0; }

  void print_head(const std::string& what) const {
    say("{:<{}}  {:>8}  {:>8}\n", what, name_width_, "error", "row");
  }
  void print_line(const Case& c, const Result& r) const {
    const std::string word = !r.failure.empty() ? painted(Mood::Bad, "FAIL") + " " + r.failure
                             : c.tokens == 0    ? "-"
                                                : painted(Mood::Good, "ok");
    say("{:<{}}  {:8.2e}  {:8.2e}  {}\n", c.name.substr(0, name_width_), name_width_, r.rel_error,
        r.max_row_error, word);
    std::fflush(stdout);
  }
  void print_sum() const {
    say("{} good, {} failed, {} without rows (tolerance {:g}, rows {:g}; same bits in every "
        "layout)\n",
        num_good(), num_failed_, num_empty_, kTolerance, kRowTolerance);
  }
  void print_json() const {
    say_json({{"good", num_good()},
              {"failed", num_failed_},
              {"without_rows", num_empty_},
              {"lines", lines_}});
  }

 private:
  size_t num_cases_, name_width_ = 0;
  int64_t num_failed_ = 0, num_empty_ = 0;
  nlohmann::json lines_ = nlohmann::json::array();
  Progress progress_;
};

// Collective. Of several processes the one of rank 0 judges and prints.
int check_all(const CheckArguments& a, const Ranks& ranks) {
  require_usage(a.ranks == 0 || a.ranks == ranks.size(), "--ranks={}, the launcher started {}",
                a.ranks, ranks.size());
  Device device{device_from(a.device), !a.no_peer_memory};
  if (device.kind == DeviceKind::Cpu)
    refuse_unused(*a.command, {"--no-peer-memory"}, "--device cuda");
  auto cases = shapes_and_skews();
  for (auto& c : gates_and_activations()) cases.push_back(std::move(c));
  Report report(cases, a.json && ranks.speaks());
  if (ranks.speaks() && !a.json) report.print_head(what_is_checked(device.kind, ranks.size()));
  for (size_t i = 0; i < cases.size(); ++i) {
    const Result r = check_case(cases[i], device, ranks, a.seed + 1000 * i);
    if (!ranks.speaks()) continue;
    report.add(cases[i], r);
    if (!a.json) report.print_line(cases[i], r);
  }
  if (!ranks.speaks()) return kGood;
  a.json ? report.print_json() : report.print_sum();
  return report.is_good() ? kGood : kFailed;
}

int check(const CheckArguments& a) {
  const Ranks ranks(a.transport, a.ranks);
  return ranks.exit_code_of([&] { return check_all(a, ranks); });
}

}  // namespace

Command add_check(CLI::App& app) {
  auto a = std::make_shared<CheckArguments>();
  auto& c = *app.add_subcommand("check", "Verify this build on this machine against float64");
  a->command = &c;
  add_choice(c, "--device", a->device, {"cpu", "cuda"}, "What is checked");
  add_number(c, "--ranks", a->ranks, {0, kMostThreadRanks}, "R",
             "Ranks; 0: 1, 2 and 4 on the CPU, one on a GPU. On CUDA they take the GPUs in turn");
  add_transport(c, a->transport);
  c.add_flag("--no-peer-memory", a->no_peer_memory, kNoPeerMemoryHelp);
  add_number(c, "--seed", a->seed, {0, UINT64_MAX}, "N", "Of inputs, weights and routing");
  c.add_flag("--json", a->json, "Print one JSON object");
  c.footer("Example:\n  switchyard check && echo this build computes what it should");
  return [a] { return check(*a); };
}

}  // namespace switchyard::cli
