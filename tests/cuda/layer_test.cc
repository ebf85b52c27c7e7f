// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/cuda/layer_test.cc -- the layer on a GPU: every checkpoint family against its float64
// output, layouts bit by bit, cuBLAS within the tolerance, errors, graphs.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "testing/checkpoints.h"
#include "testing/cuda_buffer.h"
#include "testing/cuda_graph.h"
#include "testing/layer_features.h"
#include "testing/routing.h"

namespace switchyard {
namespace {

using testing::Buffer;
using testing::CudaBuffer;
using testing::OracleCase;
using testing::Skew;
using testing::Stream;

const char* const kHopper[] = {"contiguous", "masked", "hybrid"};  // the same bits
constexpr double kTolerance = 4e-3, kRowTolerance = 2e-2;          // as on the CPU

std::shared_ptr<Backend> backend() {
  static const auto shared = make_cuda_backend();
  return shared;
}

LayerOptions cuda_options(const std::string& strategy, int64_t max_tokens) {
  LayerOptions options;
  options.max_tokens = max_tokens;
  options.strategy = strategy;
  options.device = DeviceKind::Cuda;
  options.backend = backend();
  return options;
}

// One layer's inputs on the host, and its weights on both sides.
struct Problem {
  MoeConfig config;
  LayerWeights host, device;
  Buffer<Bf16> hidden;
  Buffer<int32_t> ids;                  // empty: the gate chooses
  Buffer<float> weights;                // of the ids
  Buffer<int64_t> token_ids{Shape{0}};  // of a layer that chooses by them
  bool by_gate = true;

  int64_t tokens() const { return hidden.view().dim(0); }
};

Problem problem_of(const MoeConfig& config, LayerWeights host, Buffer<Bf16> hidden) {
  Problem p;
  p.config = config;
  p.host = std::move(host);
  p.device = to_device(p.host, config, 1, *backend());
  p.hidden = std::move(hidden);
  return p;
}

Problem random_problem(const MoeConfig& config, int64_t tokens, Skew skew = Skew::Balanced) {
  auto p = problem_of(config, random_weights(config, 1, 0, 11),
                      testing::random_bf16({tokens, config.hidden}, 12));
  p.ids = testing::random_ids(tokens, config.num_experts, config.top_k, skew, 13);
  p.weights = testing::random_f32({tokens, config.top_k}, 14, 0.1f, 1.0f);
  p.by_gate = false;
  return p;
}

// Arguments on the device, alive as long as this.
struct Call {
  explicit Call(const Problem& p) : hidden(p.hidden), output(Shape{p.tokens(), p.config.hidden}) {
    args = {.output = output.view(), .hidden = hidden.view()};
    if (p.token_ids.count() > 0) {
      token_ids = CudaBuffer<int64_t>(p.token_ids);
      args.token_ids = token_ids.view();
    }
    if (p.by_gate) return;
    ids = CudaBuffer<int32_t>(p.ids);
    weights = CudaBuffer<float>(p.weights);
    args.ids = ids.view();
    args.weights = weights.view();
  }

  CudaBuffer<Bf16> hidden, output;
  CudaBuffer<int32_t> ids;
  CudaBuffer<float> weights;
  CudaBuffer<int64_t> token_ids;
  ForwardArgs args;
};

Buffer<Bf16> run(MoeLayer& layer, const Problem& p) {
  Call call(p);
  layer.forward(call.args);
  layer.wait();
  const auto& out = call.output.host();
  EXPECT_TRUE(out.guards_intact());
  return out;
}

Buffer<Bf16> run(const Problem& p, const LayerOptions& options) {
  const auto layer = MoeLayer::create(p.config, p.device, options);
  EXPECT_EQ(layer->strategy().provider,
            options.strategy.ends_with("+cublas") ? GemmProvider::Cublas : GemmProvider::Hopper);
  auto first = run(*layer, p);
  EXPECT_TRUE(same_bits(run(*layer, p), first)) << options.strategy << ": a second run differs";
  return first;
}

void expect_close(const Buffer<Bf16>& out, ConstTensor expected, const std::string& what) {
  const auto d = compare(out.view(), expected);
  EXPECT_LE(d.rel_error, kTolerance) << what;
  EXPECT_LE(d.max_row_error, kRowTolerance) << what << ", row " << d.worst_row;
}

// Every layout and provider. Returns the bits that Hopper's layouts agree on.
Buffer<Bf16> expect_all_close(const Problem& p, ConstTensor expected, const std::string& what) {
  std::map<std::string, Buffer<Bf16>> outputs;
  for (const std::string strategy : kHopper) {
    outputs[strategy] = run(p, cuda_options(strategy, p.tokens()));
    expect_close(outputs[strategy], expected, what + ", " + strategy);
    EXPECT_TRUE(same_bits(outputs[strategy], outputs["contiguous"])) << what << ", " << strategy;
  }
  expect_close(run(p, cuda_options("masked+cublas", p.tokens())), expected,
               what + ", masked+cublas");
  auto contiguous = cuda_options("contiguous+cublas", p.tokens());
  contiguous.host_counts = true;
  expect_close(run(p, contiguous), expected, what + ", contiguous+cublas");
  return outputs["contiguous"];
}

// ---- expert ids

// What the gate ranks experts by, in float64.
std::vector<double> choice_scores(const MoeConfig& c, const RouterWeights& w, const Bf16* row) {
  std::vector<double> s(static_cast<size_t>(c.num_experts));
  for (int64_t e = 0; e < c.num_experts; ++e) {
    double sum = w.bias.present() ? w.bias.as<float>()[e] : 0.0;
    const Bf16* weight = w.weight.as<Bf16>() + e * c.hidden;
    for (int64_t i = 0; i < c.hidden; ++i)
      sum += double{static_cast<float>(row[i])} * double{static_cast<float>(weight[i])};
    s[static_cast<size_t>(e)] = sum;
  }
  const double max = *std::max_element(s.begin(), s.end());
  double total = 0;
  for (const double x : s) total += std::exp(x - max);
  for (double& x : s) {
    if (c.gate.scoring == Scoring::Softmax) x = std::exp(x - max) / total;
    if (c.gate.scoring == Scoring::Sigmoid) x = 1 / (1 + std::exp(-x));
  }
  for (size_t e = 0; e < s.size() && w.correction_bias.present(); ++e)
    s[e] += w.correction_bias.as<float>()[e];
  return s;
}

// The smallest step among the first `count` + 1 of s in descending order, relative to the largest.
double smallest_step(std::vector<double> s, int64_t first, int64_t count) {
  std::sort(s.begin(), s.end(), std::greater<>());
  double scale = 1e-30, step = 1e30;
  for (const double x : s)
    if (std::isfinite(x)) scale = std::max(scale, std::fabs(x));
  for (size_t i = static_cast<size_t>(first); i < static_cast<size_t>(count); ++i)
    if (i + 1 < s.size() && std::isfinite(s[i + 1])) step = std::min(step, s[i] - s[i + 1]);
  return step / scale;
}

// How close the choice of one token is to another one: between neighbours among the chosen and the
// first that is not, and between the last group kept and the first that is not.
double choice_gap(const MoeConfig& c, std::vector<double> s) {
  if (c.gate.num_groups == 1) return smallest_step(s, 0, c.top_k);
  const auto size = static_cast<size_t>(c.num_experts / c.gate.num_groups);
  std::vector<double> groups;
  for (size_t g = 0; g < s.size() / size; ++g) {
    std::vector<double> own(s.begin() + static_cast<int64_t>(g * size),
                            s.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(own.begin(), own.end(), std::greater<>());
    const bool two = c.gate.group_score == GroupScore::Top2Sum && size > 1;
    groups.push_back(two ? own[0] + own[1] : own[0]);
  }
  const int64_t kept = c.gate.num_groups_kept;
  const double gap = smallest_step(groups, kept - 1, kept);
  std::vector<double> sorted = groups;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (size_t e = 0; e < s.size(); ++e)
    if (groups[e / size] < sorted[static_cast<size_t>(kept - 1)]) s[e] = -INFINITY;
  return std::min(gap, smallest_step(s, 0, c.top_k));
}

Buffer<int32_t> choose(const Problem& p, const std::shared_ptr<Backend>& device,
                       GemmProvider provider) {
  const Shape slots{p.tokens(), p.config.top_k};
  const int64_t num_scored = p.config.shared.num_scored;
  CudaBuffer<Bf16> hidden(p.hidden);
  CudaBuffer<int32_t> ids{slots};
  CudaBuffer<float> weights{slots}, shared{Shape{p.tokens(), std::max<int64_t>(1, num_scored)}};
  CudaBuffer<int64_t> tokens(p.token_ids);
  const auto gate = make_gate(p.config, p.device.router, device, provider);
  const size_t bytes = gate->workspace_bytes(p.tokens());
  const auto memory = allocate(*device, bytes);
  gate->choose({.ids = ids.view(),
                .weights = weights.view(),
                .shared_weights = num_scored > 0 ? shared.view() : Tensor(),
                .token_ids = p.token_ids.count() > 0 ? tokens.view() : Tensor()},
               hidden.view(), {memory.get(), bytes}, nullptr);
  return ids.host();
}

Buffer<int32_t> choose_on_cpu(const Problem& p) {
  const Shape slots{p.tokens(), p.config.top_k};
  const int64_t num_scored = p.config.shared.num_scored;
  Buffer<int32_t> ids(slots);
  Buffer<float> weights(slots), shared({p.tokens(), std::max<int64_t>(1, num_scored)});
  const auto cpu = make_cpu_backend(1);
  const auto gate = make_gate(p.config, p.host.router, cpu);
  const size_t bytes = gate->workspace_bytes(p.tokens());
  const auto memory = allocate(*cpu, bytes);
  gate->choose({.ids = ids.view(),
                .weights = weights.view(),
                .shared_weights = num_scored > 0 ? shared.view() : Tensor(),
                .token_ids = p.token_ids.count() > 0 ? p.token_ids.view() : ConstTensor()},
               p.hidden.view(), {memory.get(), bytes}, nullptr);
  return ids;
}

// Those that choice_scores knows. Of the others, inputs are such that nothing is nearly equal.
bool has_plain_scores(const MoeConfig& c) {
  return !c.router_f32 && c.gate.logit_softcap == 0 && c.gate.vocabulary == 0 &&
         c.gate.num_zero_experts == 0 && !c.gate.rms_of_hidden && c.shared.num_scored == 0 &&
         c.gate.scoring != Scoring::SqrtSoftplus;
}

// Sums of another order may swap what is nearly equal, and nothing else.
void expect_same_ids(const Problem& p, const std::string& what) {
  const auto cpu = choose_on_cpu(p);
  for (const auto provider : {GemmProvider::Hopper, GemmProvider::Cublas}) {
    const auto gpu = choose(p, backend(), provider);
    for (int64_t t = 0; t < p.tokens(); ++t) {
      const int64_t k = p.config.top_k;
      if (!has_plain_scores(p.config)) {
        EXPECT_TRUE(std::equal(gpu.data() + t * k, gpu.data() + (t + 1) * k, cpu.data() + t * k))
            << what << ", " << provider_name(provider) << ", token " << t;
        continue;
      }
      if (std::equal(gpu.data() + t * k, gpu.data() + (t + 1) * k, cpu.data() + t * k)) continue;
      const auto scores =
          choice_scores(p.config, p.host.router, p.hidden.data() + t * p.config.hidden);
      EXPECT_LE(choice_gap(p.config, scores), 1e-5)
          << what << ", " << provider_name(provider) << ", token " << t;
    }
  }
}

// ---- checkpoints

class CudaFamilies : public ::testing::TestWithParam<size_t> {};
INSTANTIATE_TEST_SUITE_P(All, CudaFamilies,
                         ::testing::Range<size_t>(0, testing::shared_oracle_cases().size()),
                         [](const auto& info) { return testing::oracle_test_name(info.param); });

TEST_P(CudaFamilies, StayWithinFourThousandthsAndChooseTheExpertsOfTheCpu) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto& c = testing::shared_oracle_cases()[GetParam()];
  auto p =
      problem_of(c.checkpoint->config(c.layer), c.checkpoint->load_layer(c.layer, 1, 0), c.input());
  if (const ConstTensor ids = c.token_ids(); ids.present()) {
    p.token_ids = Buffer<int64_t>(ids.shape);
    std::copy_n(ids.as<int64_t>(), ids.count(), p.token_ids.data());
  }
  expect_all_close(p, c.expected(), c.name);
  expect_same_ids(p, c.name);
}

// ---- random layers: every gate and activation

MoeConfig small_config() {
  MoeConfig c;
  c.hidden = 128;
  c.intermediate = 64;
  c.num_experts = 16;
  c.top_k = 4;
  return c;
}

struct Kind {
  const char* name;
  std::function<void(MoeConfig&)> make;
};

const Kind kKinds[] = {
    {"softmax", [](MoeConfig&) {}},
    {"renormalised", [](MoeConfig& c) { c.gate.renormalize = true; }},
    {"router_bias", [](MoeConfig& c) { c.router_bias = true; }},
    {"uneven_experts",
     [](MoeConfig& c) {
       c.num_experts = 13;
       c.router_bias = true;
     }},
    {"gpt_oss",
     [](MoeConfig& c) {
       c.gate.scoring = Scoring::SoftmaxOfTopK;
       c.activation.kind = ActivationKind::ClampedSwiglu;
       c.expert_bias = c.router_bias = true;
     }},
    {"deepseek_v3",
     [](MoeConfig& c) {
       c.gate.scoring = Scoring::Sigmoid;
       c.gate.correction_bias = c.gate.renormalize = true;
       c.gate.num_groups = 4;
       c.gate.num_groups_kept = 2;
       c.gate.scale = 2.5f;
       c.shared.intermediate = 96;
     }},
    {"deepseek_v2",
     [](MoeConfig& c) {
       c.gate.num_groups = 4;
       c.gate.num_groups_kept = 2;
       c.gate.group_score = GroupScore::Max;
     }},
    {"llama4",
     [](MoeConfig& c) {
       c.gate.scoring = Scoring::Sigmoid;
       c.top_k = 1;
       c.router_weight_on_input = true;
       c.shared.intermediate = 64;
     }},
    {"sparse_mixer",
     [](MoeConfig& c) {
       c.gate.scoring = Scoring::SparseMixer;
       c.top_k = 2;
     }},
    {"gated_shared_gelu",
     [](MoeConfig& c) {
       c.activation.kind = ActivationKind::GeluGated;
       c.shared = {64, true};
     }},
    {"gelu_tanh", [](MoeConfig& c) { c.activation.kind = ActivationKind::GeluTanhGated; }},
    {"relu2_bias",
     [](MoeConfig& c) {
       c.activation.kind = ActivationKind::Relu2;
       c.expert_bias = true;
     }},
    {"relu2_shared",
     [](MoeConfig& c) {
       c.activation.kind = ActivationKind::Relu2;
       c.shared.intermediate = 32;
     }},
    {"odd_sizes",
     [](MoeConfig& c) {
       c.hidden = 200;
       c.intermediate = 72;
     }},
};

std::vector<testing::LayerFeature> all_kinds() {
  std::vector<testing::LayerFeature> all = testing::layer_features();
  for (const Kind& kind : kKinds) {
    auto config = small_config();
    kind.make(config);
    all.push_back({kind.name, config});
  }
  return all;
}

class CudaKinds : public ::testing::TestWithParam<testing::LayerFeature> {};
INSTANTIATE_TEST_SUITE_P(All, CudaKinds, ::testing::ValuesIn(all_kinds()),
                         [](const auto& info) { return info.param.name; });

TEST_P(CudaKinds, MatchFloat64InBothOrdersOfGateAndUp) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const MoeConfig& config = GetParam().config;
  for (const auto order : {GateUpOrder::GateUp, GateUpOrder::UpGate}) {
    auto host = random_weights(config, 1, 0, 21);
    host.experts.order = order;
    if (config.shared.intermediate > 0) host.shared.order = order;
    auto p = problem_of(config, host, testing::random_bf16({45, config.hidden}, 22));
    p.token_ids = testing::token_ids_for(config, 45, 23);
    Buffer<double> expected(p.hidden.view().shape);
    oracle_forward(expected.view(), config, host, p.hidden.view(), {}, {},
                   p.token_ids.count() > 0 ? p.token_ids.view() : Tensor());
    const std::string what = GetParam().name + (order == GateUpOrder::GateUp ? "" : ", up first");
    expect_all_close(p, expected.view(), what);
    expect_same_ids(p, what);
  }
}

TEST(CudaLayer, MatchesFloat64ForEverySkewAndNumberOfTokens) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const auto skew : {Skew::Balanced, Skew::Zipf, Skew::OneHot, Skew::SameExperts,
                          Skew::FirstHalfOnly, Skew::NoExpert, Skew::SomeMissing})
    for (const int64_t tokens : {1, 3, 130}) {
      const auto p = random_problem(small_config(), tokens, skew);
      Buffer<double> expected(p.hidden.view().shape);
      oracle_forward(expected.view(), p.config, p.host, p.hidden.view(), p.ids.view(),
                     p.weights.view());
      expect_all_close(p, expected.view(),
                       testing::skew_name(skew) + std::string(", ") + std::to_string(tokens));
    }
}

// ---- arguments

TEST(CudaLayer, TakesWideIds) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto p = random_problem(small_config(), 33, Skew::SomeMissing);
  Buffer<int64_t> wide_host(p.ids.view().shape);
  std::copy_n(p.ids.data(), p.ids.count(), wide_host.data());
  CudaBuffer<int64_t> wide(wide_host);
  const auto layer = MoeLayer::create(p.config, p.device, cuda_options("auto", 33));
  const auto narrow = run(*layer, p);
  Call call(p);
  call.args.ids = wide.view();
  layer->forward(call.args);
  layer->wait();
  EXPECT_TRUE(same_bits(call.output.host(), narrow));
}

TEST(CudaLayer, NoTokensAreNormal) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  auto config = small_config();
  config.shared = {64, true};
  auto p = random_problem(config, 0);
  for (const bool by_gate : {false, true})
    for (const std::string strategy : {"contiguous", "masked", "hybrid", "masked+cublas"})
      for (const int64_t capacity : {0, 16}) {
        p.by_gate = by_gate;
        const auto layer = MoeLayer::create(config, p.device, cuda_options(strategy, capacity));
        EXPECT_EQ(run(*layer, p).count(), 0);
      }
}

bool all_nan(const Buffer<Bf16>& b) {
  return std::all_of(b.data(), b.data() + b.count(),
                     [](Bf16 x) { return std::isnan(static_cast<float>(x)); });
}

TEST(CudaLayer, AnIdGivenAsI64IsShownAsItCame) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto p = random_problem(small_config(), 9);
  for (const int64_t bad : {int64_t{16}, int64_t{-2}, int64_t{1} << 32, INT64_MIN, INT64_MAX}) {
    const auto layer = MoeLayer::create(p.config, p.device, cuda_options("contiguous", 9));
    const auto expected = run(*layer, p);
    Call call(p);
    Buffer<int64_t> ids(p.ids.view().shape);
    for (int64_t i = 0; i < ids.count(); ++i) ids[i] = p.ids[i];
    ids[5] = bad;
    testing::CudaBuffer<int64_t> wide(ids);
    call.args.ids = wide.view();
    layer->forward(call.args);
    try {
      layer->wait();
      ADD_FAILURE() << "id " << bad << " was accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("expert id=" + std::to_string(bad) + " on"),
                std::string::npos)
          << e.what();
    }
    EXPECT_TRUE(same_bits(run(*layer, p), expected));
  }
}

TEST(CudaLayer, BadIdsPoisonThrowInWaitAndTheLayerGoesOn) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  for (const std::string strategy : {"contiguous", "masked", "masked+cublas"})
    for (const int32_t bad : {16, -2, 1 << 30}) {
      const auto good = random_problem(small_config(), 9);
      auto broken = good;
      broken.ids[5] = bad;
      const auto layer = MoeLayer::create(good.config, good.device, cuda_options(strategy, 9));
      const auto expected = run(*layer, good);
      Call call(broken);
      layer->forward(call.args);
      try {
        layer->wait();
        ADD_FAILURE() << strategy << ": id " << bad << " was accepted";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), Errc::BadRouting);
        EXPECT_NE(std::string(e.what()).find("expert id=" + std::to_string(bad)), std::string::npos)
            << e.what();
      }
      EXPECT_TRUE(all_nan(call.output.host())) << strategy;
      EXPECT_TRUE(call.output.host().guards_intact());
      EXPECT_TRUE(same_bits(run(*layer, good), expected)) << strategy;
    }
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(CudaLayer, RefusesWhatIsOnTheHost) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto p = random_problem(small_config(), 4);
  EXPECT_NE(message_of([&] {
              MoeLayer::create(p.config, p.host, cuda_options("auto", 4));
            }).find("Copy them with to_device."),
            std::string::npos);
  const auto layer = MoeLayer::create(p.config, p.device, cuda_options("auto", 4));
  Call call(p);
  call.args.ids = p.ids.view();
  EXPECT_NE(message_of([&] { layer->forward(call.args); }).find("ids is on cpu"),
            std::string::npos);
}

// ---- graphs

// Runs `enqueue` while the stream is captured; null when the capture failed.
cudaGraph_t capture(cudaStream_t stream, const std::function<void()>& enqueue) {
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  enqueue();
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  return graph;
}

TEST(CudaLayer, ReplaysACapturedForwardWithOtherRouting) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  auto config = small_config();
  config.shared.intermediate = 64;
  const auto first = random_problem(config, 40, Skew::Balanced);
  auto second = first;
  second.ids = testing::random_ids(40, config.num_experts, config.top_k, Skew::Zipf, 99);
  for (const std::string strategy : {"contiguous", "masked", "hybrid", "masked+cublas"}) {
    const Stream stream;
    const auto layer = MoeLayer::create(config, first.device, cuda_options(strategy, 40));
    const auto expected_first = run(*layer, first), expected_second = run(*layer, second);
    Call call(first);
    call.args.stream = stream.get();
    cudaGraph_t graph = capture(stream.get(), [&] { layer->forward(call.args); });
    cudaGraphExec_t exec = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess) << strategy;
    for (const Problem* p : std::initializer_list<const Problem*>{&first, &second, &first}) {
      copy_to_device(*backend(), call.ids.view(), p->ids.data());
      ASSERT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
      layer->wait(stream.get());
      EXPECT_TRUE(same_bits(call.output.host(), p == &first ? expected_first : expected_second))
          << strategy;
    }
    (void)cudaGraphExecDestroy(exec);
    (void)cudaGraphDestroy(graph);
  }
}

TEST(CudaLayer, HostCountsRefuseCaptureAndSayWhy) {
  SWITCHYARD_SKIP_WITHOUT_GPU();
  const auto p = random_problem(small_config(), 20);
  EXPECT_NE(message_of([&] {
              MoeLayer::create(p.config, p.device, cuda_options("contiguous+cublas", 20));
            }).find("host_counts=off"),
            std::string::npos);
  auto options = cuda_options("contiguous+cublas", 20);
  options.host_counts = true;
  const auto layer = MoeLayer::create(p.config, p.device, options);
  const auto expected = run(*layer, p);
  const Stream stream;
  Call call(p);
  call.args.stream = stream.get();
  std::string message;
  cudaGraph_t graph =
      capture(stream.get(), [&] { message = message_of([&] { layer->forward(call.args); }); });
  EXPECT_NE(message.find("wait for the stream to read counts"), std::string::npos) << message;
  (void)cudaGraphDestroy(graph);
  EXPECT_TRUE(same_bits(run(*layer, p), expected));  // the layer goes on
}

}  // namespace
}  // namespace switchyard
