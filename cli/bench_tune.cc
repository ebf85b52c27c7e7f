// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench_tune.cc -- switchyard bench --tune: the experts' two grouped GEMMs in every configuration
// that can do them.
#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string_view>

#include "bench.h"
#include "commands.h"
#include "gemm_times.h"
#include "switchyard/file.h"
#include "switchyard/strategy.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

// Configurations take turns, so that each meets the card as warm as the others do.
constexpr int kRounds = 3;

// A layer whose GEMMs both run in one configuration, where it can do both.
struct Contender {
  std::string config;
  std::unique_ptr<MoeLayer> layer;
};

class GemmTuner {
 public:
  explicit GemmTuner(const BenchArguments& a)
      : a_(a), config_(a.source.config()), backend_(make_cuda_backend()) {
    config_.shared = {};
    BenchArguments routed = a;
    routed.routed_only = true;
    weights_ = bench_weights(routed, *backend_);
    const auto most = *std::ranges::max_element(a.tokens);
    workspace_ = std::make_shared<SharedWorkspace>(
        backend_, MoeLayer::workspace_bytes(config_, 1, options(most)));
  }

  void run() {
    const auto progress = progress_on_terminal("tuning");
    for (size_t i = 0; i < a_.tokens.size(); ++i) {
      try {
        tune(a_.tokens[i]);
      } catch (const Error& e) {
        problems_.push_back(fmt::format("{} tokens: {}", a_.tokens[i], e.what()));
        if (e.code() == Errc::Cuda) return;  // the device says no more
      }
      if (progress) progress(static_cast<int64_t>(i) + 1, static_cast<int64_t>(a_.tokens.size()));
    }
  }

  int finish() const {
    show(a_, json(), [this] { print(); });
    if (!a_.out.empty()) {
      const std::string text = table_of(times_, device_, a_.source.expert_format().dtype);
      write_file(a_.out, std::as_bytes(std::span(text)));
      if (!a_.json) say("\ntable     {}\n", a_.out);
    }
    return problems_.empty() ? kGood : kFailed;
  }

 private:
  LayerOptions options(int64_t tokens) const {
    LayerOptions o = a_.run.layer_options(tokens);
    o.backend = backend_;
    o.shared_workspace = workspace_;
    o.experts = a_.source.expert_format().dtype;
    return o;
  }

  std::array<GemmCandidates, 2> candidates(int64_t tokens) const {
    StrategyRequest r;
    static_cast<PlanOptions&>(r) = options(tokens);
    r.config = config_;
    r.device = device_;
    return gemm_candidates(r);
  }

  std::unique_ptr<MoeLayer> layer_of(int64_t tokens, const std::string& gemm1,
                                     const std::string& gemm2) const {
    LayerOptions o = options(tokens);
    o.gemm1 = gemm1, o.gemm2 = gemm2;
    return MoeLayer::create(config_, weights_, o);
  }

  std::vector<std::byte> output_of(MoeLayer& layer, const BenchProblem& problem) const {
    problem.poison_output(*backend_);
    layer.forward(problem.args_given_routing());
    layer.wait();
    std::vector<std::byte> output(static_cast<size_t>(problem.output.view().bytes()));
    problem.output.copy_to(output.data());
    return output;
  }

  void tune(int64_t tokens) {
    const BenchProblem problem(config_, *backend_, a_.routing, tokens);
    auto [first, second] = candidates(tokens);
    std::array times{GemmTimes(tokens, 1, std::move(first)),
                     GemmTimes(tokens, 2, std::move(second))};
    auto contenders = look_at_all(problem, times);
    std::erase_if(contenders, [&](const Contender& c) {
      return std::ranges::none_of(times, [&](const GemmTimes& t) {
        const ConfigTime* time = t.find(c.config);
        return time != nullptr && t.is_contender(*time);
      });
    });
    const int repeat = (a_.repeat + kRounds - 1) / kRounds;
    for (int round = 0; round < kRounds; ++round)
      for (const Contender& c : contenders) {
        const std::array us = measure(*c.layer, problem, repeat);
        for (size_t i = 0; i < times.size(); ++i)
          if (ConfigTime* time = times[i].find(c.config)) time->rounds_us.push_back(us[i]);
      }
    for (GemmTimes& t : times) times_.push_back(std::move(t));
  }

  // Every configuration, once: those with the bits of the layer as it is chosen.
  std::vector<Contender> look_at_all(const BenchProblem& problem, std::array<GemmTimes, 2>& times) {
    const auto expected = output_of(*layer_of(problem.tokens, "", ""), problem);
    std::vector<Contender> good;
    for (const std::string& config : names_of(times)) {
      const auto name_for = [&](const GemmTimes& t) { return t.find(config) ? config : ""; };
      std::array<double, 2> us{};
      std::string fault;
      try {
        Contender c{config, layer_of(problem.tokens, name_for(times[0]), name_for(times[1]))};
        if (output_of(*c.layer, problem) != expected)
          fault = "its bits are not those of the chosen configuration";
        else
          us = measure(*c.layer, problem, 1), good.push_back(std::move(c));
      } catch (const Error& e) {
        if (e.code() == Errc::Cuda) throw;
        fault = e.what();
      }
      if (!fault.empty())
        problems_.push_back(fmt::format("{} tokens, {}: {}", problem.tokens, config, fault));
      for (size_t i = 0; i < times.size(); ++i)
        if (ConfigTime* time = times[i].find(config)) time->first_us = us[i], time->problem = fault;
    }
    return good;
  }

  static std::vector<std::string> names_of(const std::array<GemmTimes, 2>& times) {
    std::vector<std::string> names = times[0].shape.configs;
    for (const auto& name : times[1].shape.configs)
      if (times[0].find(name) == nullptr) names.push_back(name);
    return names;
  }

  // Microseconds of GEMM1, with the scatter where it gathers no rows itself, and of GEMM2.
  std::array<double, 2> measure(MoeLayer& layer, const BenchProblem& problem, int repeat) const {
    std::array<double, 2> us{};
    const MeasureOptions how{.repeat = repeat, .only = Phase::Experts, .whole = false};
    for (const OpTime& time :
         measure_forward(layer, problem.args_given_routing(), *backend_, how)) {
      if (time.op == "scatter_rows" || time.op.ends_with("_gemm1")) us[0] += time.us;
      if (time.op.ends_with("_gemm2")) us[1] += time.us;
    }
    return us;
  }

  nlohmann::json json() const {
    nlohmann::json gemms = nlohmann::json::array();
    for (const GemmTimes& t : times_) gemms.push_back(json_of(t));
    return {{"layer", a_.source.name()},
            {"device", device_.name},
            {"num_sms", device_.num_sms},
            {"read_gbps", device_.read_gbps},
            {"experts", dtype_name(a_.source.expert_format().dtype)},
            {"date", utc_now()},
            {"commit", a_.commit},
            {"version", SWITCHYARD_VERSION},
            {"routing", a_.routing},
            {"repeat", a_.repeat},
            {"rounds", kRounds},
            {"l2", "cold"},
            {"gemms", gemms},
            {"problems", problems_}};
  }

  void print() const {
    say("layer     {}\n          {}\ndevice    {}, version {}\n", a_.source.name(),
        describe(config_), device_.name, SWITCHYARD_VERSION);
    say("measured  cold L2, CUDA graphs, medians of {} rounds on a rested card, {} routing; GEMM1 "
        "with the scatter that it needs\n\n",
        kRounds, a_.routing);
    Table table({"<tokens", "<GEMM", "experts", "N x K", "rows", "<chosen now", "us", "<best", "us",
                 "gain"});
    for (const GemmTimes& t : times_) {
      const double now = t.us_of(t.shape.chosen), least = t.us_of(t.best());
      const bool known = std::isfinite(now) && std::isfinite(least);
      table.add({fmt::format("{:>6}", t.tokens), fmt::format("GEMM{}", t.gemm),
                 std::to_string(t.shape.num_experts), fmt::format("{} x {}", t.shape.n, t.shape.k),
                 std::to_string(t.shape.rows), t.shape.chosen,
                 known ? fmt::format("{:.1f}", now) : "-",
                 t.best() == t.shape.chosen ? "the same" : t.best(),
                 known ? fmt::format("{:.1f}", least) : "-",
                 known ? fmt::format("{:.3f}", now / least) : "-"});
    }
    say("{}", table.text());
    for (const auto& problem : problems_) say("FAILED, {}\n", problem);
  }

  const BenchArguments& a_;
  MoeConfig config_;  // of the routed experts
  const DeviceDescription& device_ = describe_device(DeviceKind::Cuda);
  std::shared_ptr<Backend> backend_;
  LayerWeights weights_;
  std::shared_ptr<SharedWorkspace> workspace_;
  std::vector<GemmTimes> times_;
  std::vector<std::string> problems_;
};

}  // namespace

int tune_gemms(const BenchArguments& arguments) {
  GemmTuner tuner(arguments);
  tuner.run();
  return tuner.finish();
}

}  // namespace switchyard::cli
