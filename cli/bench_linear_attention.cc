// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/bench_linear_attention.cc -- switchyard bench --linear-attention: decode steps of the causal
// convolution and the gated delta rule beside the bytes that they have to move.
#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <thread>

#include "bench.h"
#include "commands.h"
#include "machine.h"
#include "switchyard/linear_attention.h"
#include "switchyard/version.h"

namespace switchyard::cli {
namespace {

// The sizes of Qwen3-Next's gated-delta-net layers, split as its tests have them.
constexpr int64_t kConvDim = 4096, kConvWidth = 4, kConvDepth = kConvWidth - 1;
constexpr int64_t kKeyHeads = 16, kValueHeads = 32, kHeadDim = 128;
constexpr int64_t kBlockTokens = 128;
// In the middle of the first block, which is read and written, as in most steps.
constexpr int32_t kLength = 66;
// Above one rounding to bf16 (2^-9 of the value), below any wrong sum.
constexpr double kMaxError = 5e-3;

struct Row {
  int64_t batch, tokens;
  OpTime time;
  double floor_us;
};

std::vector<float> random_values(int64_t count, uint64_t seed, float low, float high) {
  std::vector<float> values(count);
  std::mt19937_64 rng(seed);
  const float step = (high - low) * 0x1p-24f;
  for (float& v : values) v = low + static_cast<float>(rng() >> 40) * step;
  return values;
}

std::vector<Bf16> random_bf16(int64_t count, uint64_t seed) {
  const Rows rows = random_rows(1, count, seed);
  const auto* values = rows.view().as<Bf16>();
  return {values, values + count};
}

double number(Bf16 value) {
  return double{static_cast<float>(value)};
}

// Sequences of kLength tokens with their own blocks, and a pool whose blocks all hold the same
// random state.
class Sequences {
 public:
  Sequences(Backend& backend, DeviceKind device, int64_t batch, int64_t tokens)
      : num_blocks_(1 + batch * tokens), slots_(tokens) {
    std::vector<int32_t> lengths(batch, kLength);
    std::vector<int32_t> ids(batch * tokens);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i + 1);
    lengths_.emplace(backend, device, ConstTensor(lengths.data(), {batch}));
    ids_.emplace(backend, device, ConstTensor(ids.data(), {batch, tokens}));
  }

  StateMap map() const {
    return {.sequence_lengths = lengths_->view(),
            .block_map = ids_->view(),
            .num_slots = slots_,
            .row_stride = slots_,
            .block_tokens = kBlockTokens};
  }
  int64_t num_blocks() const { return num_blocks_; }

  template <class T>
  DeviceBuffer pool(Backend& backend, DeviceKind device, const std::vector<T>& block,
                    const Shape& shape) const {
    DeviceBuffer all(backend, device, kDTypeOf<T>, shape);
    for (int64_t b = 0; b < num_blocks_; ++b)
      copy_to_device(backend, all.view().rows(b, 1), block.data());
    return all;
  }

 private:
  int64_t num_blocks_, slots_;
  std::optional<DeviceBuffer> lengths_, ids_;
};

void require_close(const char* op, double got, double need) {
  if (!(std::fabs(got - need) <= kMaxError * std::max(1.0, std::fabs(need))))
    throw std::runtime_error(
        fmt::format("{}: output={}, need {} by float64. Not timed.", op, got, need));
}

class Bench {
 public:
  explicit Bench(const BenchArguments& a)
      : a_(a),
        device_(device_from(a.run.device)),
        cuda_(device_ == DeviceKind::Cuda),
        backend_(cuda_ ? make_cuda_backend() : make_cpu_backend(a.run.layer.num_threads)) {
    if (cuda_) {
      rates_ = measure_device(*backend_);
    } else {
      const int cores = static_cast<int>(std::thread::hardware_concurrency());
      const int threads = a.run.layer.num_threads;
      rates_.name = describe_device(device_).name;
      rates_.copy_gbps = measure_machine(threads > 0 ? threads : cores).read_gbps;
    }
  }

  void run() {
    const auto tokens = a_.tokens.empty() ? std::vector<int64_t>{1, 2, 4} : a_.tokens;
    const auto conv_batch = batches(cuda_ ? std::vector<int64_t>{1, 8, 32, 128, 512, 2048, 8192}
                                          : std::vector<int64_t>{1, 8, 32});
    const auto delta_batch =
        batches(cuda_ ? std::vector<int64_t>{1, 8, 32, 64, 128, 256} : std::vector<int64_t>{1, 4});
    for (const int64_t n : tokens) require_usage(n >= 1 && n <= 4, "--tokens={}, need 1 to 4", n);
    for (const int64_t n : tokens)
      for (const int64_t b : conv_batch) conv(b, n);
    for (const int64_t n : tokens)
      for (const int64_t b : delta_batch) delta_rule(b, n);
    measure_smallest();
  }

  void print() const {
    show(a_, json(), [this] { print_table(); });
  }

 private:
  std::vector<int64_t> batches(const std::vector<int64_t>& usual) const {
    return a_.batch.empty() ? usual : a_.batch;
  }

  OpTime timed(LinearAttention& attention, const std::function<void(CUstream_st*)>& enqueue) {
    OpTime time = measure_operation(enqueue, *backend_, {.repeat = a_.repeat});
    attention.wait();
    return time;
  }
  void add(int64_t batch, int64_t tokens, const OpTime& time) {
    rows_.push_back({batch, tokens, time, floor_us(time, rates_)});
  }
  template <class T>
  DeviceBuffer on_device(const std::vector<T>& values, const Shape& shape) {
    return {*backend_, device_, ConstTensor(values.data(), shape)};
  }

  void conv(int64_t batch, int64_t n) {
    const auto attention = LinearAttention::create(backend_, batch);
    const Sequences sequences(*backend_, device_, batch, n);
    const auto x = random_bf16(batch * kConvDim * n, 1),
               state = random_bf16(kConvDim * kConvDepth, 2);
    const auto weight = random_values(kConvDim * kConvWidth, 3, -1, 1);
    const auto bias = random_values(kConvDim, 4, -1, 1);
    const auto d_x = on_device(x, {batch, kConvDim, n});
    const auto d_weight = on_device(weight, {kConvDim, kConvWidth}),
               d_bias = on_device(bias, {kConvDim});
    const DeviceBuffer output(*backend_, device_, DType::Bf16, {batch, kConvDim, n});
    const auto pool =
        sequences.pool(*backend_, device_, state, {sequences.num_blocks(), kConvDim, kConvDepth});
    ConvDecode step;
    step.output = output.view(), step.x = d_x.view(), step.state = pool.view();
    step.weight = d_weight.view(), step.bias = d_bias.view();
    step.activation = ConvActivation::Silu;
    step.map = sequences.map();
    attention->conv_decode(step);
    attention->wait();

    std::vector<Bf16> got(x.size());
    output.copy_to(got.data());
    for (const int64_t b : {int64_t{0}, batch - 1})
      for (int64_t c = 0; c < kConvDim; c += 97) {
        std::vector<double> u;
        for (int64_t j = 0; j < kConvDepth; ++j) u.push_back(number(state[c * kConvDepth + j]));
        for (int64_t t = 0; t < n; ++t) {
          const auto at = static_cast<size_t>((b * kConvDim + c) * n + t);
          u.push_back(number(x[at]));
          double sum = double{bias[c]};
          for (int64_t j = 0; j < kConvWidth; ++j)
            sum += double{weight[c * kConvWidth + j]} * u[t + j];
          require_close("conv_decode", number(got[at]), sum / (1 + std::exp(-sum)));
        }
      }
    add(batch, n, timed(*attention, [&](CUstream_st* stream) {
          step.stream = stream;
          attention->conv_decode(step);
        }));
  }

  void delta_rule(int64_t batch, int64_t n) {
    const auto attention = LinearAttention::create(backend_, batch);
    const Sequences sequences(*backend_, device_, batch, n);
    const int64_t rows = batch * n;
    const auto q = random_bf16(rows * kKeyHeads * kHeadDim, 1);
    const auto k = random_bf16(rows * kKeyHeads * kHeadDim, 2);
    const auto v = random_bf16(rows * kValueHeads * kHeadDim, 3);
    const auto g = random_values(rows * kValueHeads, 4, -1, 0);
    const auto beta = random_values(rows * kValueHeads, 5, 0, 1);
    const auto state = random_values(kValueHeads * kHeadDim * kHeadDim, 6, -1, 1);
    const auto d_q = on_device(q, {batch, n, kKeyHeads, kHeadDim});
    const auto d_k = on_device(k, {batch, n, kKeyHeads, kHeadDim});
    const auto d_v = on_device(v, {batch, n, kValueHeads, kHeadDim});
    const auto d_g = on_device(g, {batch, n, kValueHeads});
    const auto d_beta = on_device(beta, {batch, n, kValueHeads});
    const DeviceBuffer output(*backend_, device_, DType::Bf16, {batch, n, kValueHeads, kHeadDim});
    const auto pool = sequences.pool(*backend_, device_, state,
                                     {sequences.num_blocks(), kValueHeads, kHeadDim, kHeadDim});
    DeltaRuleDecode step;
    step.output = output.view(), step.state = pool.view();
    step.q = ConstTensor(d_q.view()), step.k = ConstTensor(d_k.view());
    step.v = ConstTensor(d_v.view());
    step.g = d_g.view(), step.beta = d_beta.view();
    step.l2_normalize = true;
    step.map = sequences.map();
    attention->delta_rule_decode(step);
    attention->wait();

    std::vector<Bf16> got(v.size());
    output.copy_to(got.data());
    const auto key = [&](const std::vector<Bf16>& all, int64_t row, int64_t head) {
      std::vector<double> values;
      double squares = 1e-6;
      for (int64_t i = 0; i < kHeadDim; ++i) {
        values.push_back(number(all[(row * kKeyHeads + head) * kHeadDim + i]));
        squares += values.back() * values.back();
      }
      for (double& each : values) each /= std::sqrt(squares);
      return values;
    };
    for (const int64_t b : {int64_t{0}, batch - 1})
      for (int64_t h = 0; h < kValueHeads; h += 5)
        for (int64_t value = 0; value < kHeadDim; value += 19) {
          const auto in_block = static_cast<size_t>((h * kHeadDim + value) * kHeadDim);
          std::vector<double> s(state.begin() + static_cast<std::ptrdiff_t>(in_block),
                                state.begin() + static_cast<std::ptrdiff_t>(in_block) + kHeadDim);
          for (int64_t t = 0; t < n; ++t) {
            const int64_t row = b * n + t, at = row * kValueHeads + h;
            const auto qs = key(q, row, h / (kValueHeads / kKeyHeads));
            const auto ks = key(k, row, h / (kValueHeads / kKeyHeads));
            double dot = 0, out = 0;
            for (size_t i = 0; i < s.size(); ++i) {
              s[i] *= std::exp(double{g[at]});
              dot += s[i] * ks[i];
            }
            const double d = double{beta[at]} * (number(v[at * kHeadDim + value]) - dot);
            for (size_t i = 0; i < s.size(); ++i) {
              s[i] += d * ks[i];
              out += s[i] * qs[i] / std::sqrt(double{kHeadDim});
            }
            require_close("delta_rule_decode", number(got[at * kHeadDim + value]), out);
          }
        }
    add(batch, n, timed(*attention, [&](CUstream_st* stream) {
          step.stream = stream;
          attention->delta_rule_decode(step);
        }));
  }

  // What a launch takes that has next to nothing to do: no step is faster, whatever its bytes.
  void measure_smallest() {
    const auto attention = LinearAttention::create(backend_, 1);
    const Sequences sequences(*backend_, device_, 1, 1);
    const std::vector<Bf16> x(8, Bf16(1.0f)), state(8, Bf16(1.0f));
    const std::vector<float> weight(16, 1.0f);
    const auto d_x = on_device(x, {1, 8});
    const auto d_weight = on_device(weight, {8, 2});
    const auto pool = sequences.pool(*backend_, device_, state, {sequences.num_blocks(), 8, 1});
    ConvDecode step;
    step.x = d_x.view(), step.output = d_x.view();
    step.state = pool.view(), step.weight = d_weight.view();
    step.map = sequences.map();
    smallest_us_ = timed(*attention, [&](CUstream_st* stream) {
                     step.stream = stream;
                     attention->conv_decode(step);
                   }).us;
  }

  void print_table() const {
    say("shapes    conv_decode D {} w {} bf16; delta_rule_decode Hk {} Hv {} Dk = Dv = {}\n",
        kConvDim, kConvWidth, kKeyHeads, kValueHeads, kHeadDim);
    say("device    {}, version {}\n", rates_.name, SWITCHYARD_VERSION);
    say("measured  {} {:.0f} GB/s; floor = bytes over it; {}medians of {}\n",
        cuda_ ? "copy" : "read", rates_.copy_gbps, cuda_ ? "cold L2, CUDA graphs, " : "",
        a_.repeat);
    say("          the smallest step (8 channels of one sequence) takes {:.1f} us\n\n",
        smallest_us_);
    Table table({"<operation", "batch", "tokens", "us", "floor us", "x floor", "GB/s"});
    for (const Row& r : rows_)
      table.add({r.time.op, fmt::format("{}", r.batch), fmt::format("{}", r.tokens),
                 fmt::format("{:.1f}", r.time.us), fmt::format("{:.1f}", r.floor_us),
                 fmt::format("{:.2f}", r.time.us / r.floor_us),
                 fmt::format("{:.0f}", r.time.bytes / r.time.us * 1e-3)});
    say("{}", table.text());
  }

  nlohmann::json json() const {
    nlohmann::json rows = nlohmann::json::array();
    for (const Row& r : rows_)
      rows.push_back({{"op", r.time.op},
                      {"batch", r.batch},
                      {"tokens", r.tokens},
                      {"us", r.time.us},
                      {"us_min", r.time.min_us},
                      {"us_max", r.time.max_us},
                      {"floor_us", r.floor_us},
                      {"bytes", r.time.bytes}});
    return {{"device", rates_.name},         {"driver", rates_.driver}, {"gbps", rates_.copy_gbps},
            {"smallest_us", smallest_us_},   {"commit", a_.commit},     {"date", utc_now()},
            {"version", SWITCHYARD_VERSION}, {"repeat", a_.repeat},     {"rows", rows}};
  }

  const BenchArguments& a_;
  DeviceKind device_;
  bool cuda_;
  std::shared_ptr<Backend> backend_;
  DeviceRates rates_;
  std::vector<Row> rows_;
  double smallest_us_ = 0;
};

}  // namespace

int bench_linear_attention(const BenchArguments& arguments) {
  Bench bench(arguments);
  bench.run();
  bench.print();
  return kGood;
}

}  // namespace switchyard::cli
