// tests/layer/definitions_test.cc -- every family against its public definition. The expected
// output is computed here, in float64, from the tensors of a synthetic checkpoint as the family's
// published model code computes it (transformers 5.17, modeling_<family>.py; the quantised formats:
// DeepSeek's weight_dequant, OCP Microscaling Formats 1.0). Nothing of the library takes part in
// it.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/oracle.h"
#include "switchyard/safetensors.h"
#include "testing/buffer.h"
#include "testing/temporary_folder.h"

namespace switchyard {
namespace {

using nlohmann::json;
using testing::Buffer;
using testing::TemporaryFolder;
using Row = std::vector<double>;

// A tensor as the file has it, and the numbers it stands for.
struct Stored {
  Shape shape;
  DType dtype = DType::Bf16;
  std::vector<std::byte> bytes;
  Row values;
};
using Tensors = std::map<std::string, Stored>;

constexpr int64_t kHidden = 128, kInner = 64, kExperts = 16, kTokens = 40;

class Maker {
 public:
  explicit Maker(uint64_t seed) : rng_(seed) {}

  void bf16(const std::string& name, Shape shape, double range = 0.2) {
    Stored t{shape, DType::Bf16, {}, {}};
    for (int64_t i = 0; i < shape.count(); ++i) {
      const Bf16 value(static_cast<float>(uniform() * range));
      append(t, value);
      t.values.push_back(static_cast<float>(value));
    }
    tensors[name] = std::move(t);
  }
  void f32(const std::string& name, Shape shape, double range) {
    Stored t{shape, DType::F32, {}, {}};
    for (int64_t i = 0; i < shape.count(); ++i) {
      const auto value = static_cast<float>(uniform() * range);
      append(t, value);
      t.values.push_back(value);
    }
    tensors[name] = std::move(t);
  }

  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(rng_); }
  uint64_t bits() { return rng_(); }

  template <class T>
  static void append(Stored& t, T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    t.bytes.insert(t.bytes.end(), bytes, bytes + sizeof value);
  }

  Tensors tensors;

 private:
  std::mt19937_64 rng_;
};

// ---- float64 pieces of model code

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// y[o] = sum_i w[first + o, i] x[i], w row-major with x.size() columns.
Row linear(const Row& w, const Row& x, int64_t rows, int64_t first_row = 0) {
  const auto cols = static_cast<int64_t>(x.size());
  Row y(static_cast<size_t>(rows), 0.0);
  for (int64_t o = 0; o < rows; ++o)
    for (int64_t i = 0; i < cols; ++i)
      y[static_cast<size_t>(o)] +=
          w[static_cast<size_t>((first_row + o) * cols + i)] * x[static_cast<size_t>(i)];
  return y;
}

// y[o] = sum_i x[i] w[i, o] of the matrix [x.size(), cols] that begins at `first`: x @ w.
Row matmul(const Row& x, const Row& w, int64_t cols, int64_t first) {
  Row y(static_cast<size_t>(cols), 0.0);
  for (size_t i = 0; i < x.size(); ++i)
    for (int64_t o = 0; o < cols; ++o)
      y[static_cast<size_t>(o)] +=
          x[i] * w[static_cast<size_t>(first + static_cast<int64_t>(i) * cols + o)];
  return y;
}

Row softmax(Row x) {
  const double max = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& v : x) sum += v = std::exp(v - max);
  for (double& v : x) v /= sum;
  return x;
}

std::vector<size_t> topk(const Row& x, size_t k) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  order.resize(k);
  return order;
}

struct Routed {
  std::vector<size_t> experts;
  Row weights;
};

Routed gathered(const Row& scores, const std::vector<size_t>& experts) {
  Routed r{experts, {}};
  for (const size_t e : experts) r.weights.push_back(scores[e]);
  return r;
}

Routed normalized(Routed r, double epsilon = 0, double floor = 0) {
  const double sum = std::accumulate(r.weights.begin(), r.weights.end(), 0.0);
  for (double& w : r.weights) w /= std::max(sum, floor) + epsilon;
  return r;
}

Routed scaled(Routed r, double factor) {
  for (double& w : r.weights) w *= factor;
  return r;
}

// Scores of experts outside the best groups become `outside`.
Row inside_groups(const Row& scores, size_t groups, size_t kept, size_t best_of_group,
                  double outside) {
  const size_t size = scores.size() / groups;
  Row group_scores(groups, 0.0);
  for (size_t g = 0; g < groups; ++g) {
    Row members(scores.begin() + static_cast<int64_t>(g * size),
                scores.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(members.rbegin(), members.rend());
    for (size_t i = 0; i < best_of_group; ++i) group_scores[g] += members[i];
  }
  const auto best = topk(group_scores, kept);
  Row masked = scores;
  for (size_t e = 0; e < scores.size(); ++e)
    if (std::find(best.begin(), best.end(), e / size) == best.end()) masked[e] = outside;
  return masked;
}

// DeepSeek-V3's gate: dots1 and glm4_moe share it.
Routed sigmoid_with_bias(const Row& logits, const Row& bias, size_t k, size_t groups, size_t kept,
                         bool normalize, double factor) {
  Row scores = logits, choice;
  for (double& s : scores) s = sigmoid(s);
  for (size_t e = 0; e < scores.size(); ++e) choice.push_back(scores[e] + bias[e]);
  choice = inside_groups(choice, groups, kept, 2, -INFINITY);
  Routed r = gathered(scores, topk(choice, k));
  if (normalize) r = normalized(r, 1e-20);
  return scaled(r, factor);
}

Routed sparsemixer(const Row& scores, double epsilon) {
  Routed r;
  Row left = scores;
  for (int round = 0; round < 2; ++round) {
    const size_t best = topk(left, 1)[0];
    const double threshold = left[best];
    Row gates = left;
    for (size_t e = 0; e < scores.size(); ++e)
      if ((threshold - scores[e]) / std::max(std::abs(scores[e]), threshold) > 2 * epsilon)
        gates[e] = -INFINITY;
    r.experts.push_back(best);
    r.weights.push_back(softmax(gates)[best]);
    left[best] = -INFINITY;
  }
  return r;
}

// ---- how experts are stored

using Expert = std::function<Row(const Tensors&, size_t expert, const Row& x)>;

struct Definition {
  std::string name;
  json config;
  int64_t layer = 1;
  std::string module = "model.layers.1.mlp";
  std::string router;  // tensor name
  std::function<void(Maker&)> make;
  std::function<Routed(const Tensors&, const Row& logits)> route;
  Expert expert;                                            // of one row, unweighted
  std::function<Row(const Tensors&, const Row& x)> shared;  // absent: none
  bool weight_on_input = false;
  double router_range = 0.2;

  friend void PrintTo(const Definition& d, std::ostream* out) { *out << d.name; }
};

void make_mlp(Maker& m, const std::string& at, int64_t inner,
              std::array<const char*, 3> names = {"gate_proj", "up_proj", "down_proj"}) {
  m.bf16(at + "." + names[0] + ".weight", {inner, kHidden});
  m.bf16(at + "." + names[1] + ".weight", {inner, kHidden});
  m.bf16(at + "." + names[2] + ".weight", {kHidden, inner});
}

Row mlp(const Tensors& t, const std::string& at, const Row& x,
        std::array<const char*, 3> names = {"gate_proj", "up_proj", "down_proj"}) {
  const auto& gate_weight = t.at(at + "." + names[0] + ".weight");
  const int64_t inner = gate_weight.shape[0];
  Row gate = linear(gate_weight.values, x, inner);
  const Row up = linear(t.at(at + "." + names[1] + ".weight").values, x, inner);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = silu(gate[i]) * up[i];
  return linear(t.at(at + "." + names[2] + ".weight").values, gate, kHidden);
}

// One module per expert under `at`.
void separate(Definition& d, const std::string& at,
              std::array<const char*, 3> names = {"gate_proj", "up_proj", "down_proj"}) {
  const auto before = d.make;
  d.make = [=](Maker& m) {
    if (before) before(m);
    for (int64_t e = 0; e < kExperts; ++e)
      make_mlp(m, at + ".experts." + std::to_string(e), kInner, names);
  };
  d.expert = [=](const Tensors& t, size_t e, const Row& x) {
    return mlp(t, at + ".experts." + std::to_string(e), x, names);
  };
}

void shared_mlp(Definition& d, const std::string& at, int64_t inner) {
  const auto before = d.make;
  d.make = [=](Maker& m) {
    if (before) before(m);
    make_mlp(m, at, inner);
  };
  d.shared = [=](const Tensors& t, const Row& x) { return mlp(t, at, x); };
}

void with_tensor(Definition& d, const std::string& name, Shape shape, double range, bool f32) {
  const auto before = d.make;
  d.make = [=](Maker& m) {
    if (before) before(m);
    f32 ? m.f32(name, shape, range) : m.bf16(name, shape, range);
  };
}

json base_config(const char* type, const char* experts_key = "num_experts",
                 const char* inner_key = "moe_intermediate_size", int top_k = 4) {
  return {{"model_type", type},          {"hidden_size", kHidden}, {experts_key, kExperts},
          {inner_key, kInner},           {"hidden_act", "silu"},   {"num_hidden_layers", 3},
          {"num_experts_per_tok", top_k}};
}

// A family with one module per expert under model.layers.1.mlp and a router gate.weight.
Definition standard(const char* type, const char* experts_key = "num_experts",
                    const char* inner_key = "moe_intermediate_size") {
  Definition d;
  d.name = type;
  d.config = base_config(type, experts_key, inner_key);
  d.router = "model.layers.1.mlp.gate.weight";
  separate(d, "model.layers.1.mlp");
  return d;
}

// ---- the families

Definition qwen_like(const char* type, bool normalize, bool shared) {
  Definition d = standard(type);
  d.config["norm_topk_prob"] = normalize;
  d.config["intermediate_size"] = 8 * kInner;  // of dense layers
  d.config["decoder_sparse_step"] = 1;
  d.config["mlp_only_layers"] = json::array({0});
  d.route = [normalize](const Tensors&, const Row& logits) {
    const Row p = softmax(logits);
    const Routed r = gathered(p, topk(p, 4));
    return normalize ? normalized(r) : r;
  };
  if (!shared) return d;
  d.config["shared_expert_intermediate_size"] = 2 * kInner;
  shared_mlp(d, "model.layers.1.mlp.shared_expert", 2 * kInner);
  with_tensor(d, "model.layers.1.mlp.shared_expert_gate.weight", {1, kHidden}, 0.2, false);
  d.shared = [inner = d.shared](const Tensors& t, const Row& x) {
    Row y = inner(t, x);
    const double g =
        sigmoid(linear(t.at("model.layers.1.mlp.shared_expert_gate.weight").values, x, 1)[0]);
    for (double& v : y) v *= g;
    return y;
  };
  return d;
}

Definition olmo_like(const char* type) {
  Definition d = standard(type, "num_experts", "intermediate_size");
  d.route = [](const Tensors&, const Row& logits) {
    const Row p = softmax(logits);
    return gathered(p, topk(p, 4));
  };
  return d;
}

Definition mixtral_like(const char* type) {
  Definition d;
  d.name = type;
  d.config = base_config(type, "num_local_experts", "intermediate_size");
  d.router = "model.layers.1.block_sparse_moe.gate.weight";
  separate(d, "model.layers.1.block_sparse_moe", {"w1", "w3", "w2"});
  d.route = [](const Tensors&, const Row& logits) {
    const Row p = softmax(logits);
    return normalized(gathered(p, topk(p, 4)));
  };
  return d;
}

Definition deepseek_v2(const char* method) {
  Definition d = standard("deepseek_v2", "n_routed_experts");
  d.name += std::string(" ") + method;
  d.config.update({{"topk_method", method},
                   {"n_group", 4},
                   {"topk_group", 2},
                   {"routed_scaling_factor", 16.0},
                   {"n_shared_experts", 2},
                   {"first_k_dense_replace", 1},
                   {"norm_topk_prob", false}});
  shared_mlp(d, "model.layers.1.mlp.shared_experts", 2 * kInner);
  const bool grouped = std::string(method) == "group_limited_greedy";
  d.route = [grouped](const Tensors&, const Row& logits) {
    Row p = softmax(logits);
    if (grouped) p = inside_groups(p, 4, 2, 1, 0.0);
    return scaled(gathered(p, topk(p, 4)), 16.0);
  };
  return d;
}

Definition sigmoid_like(const char* type, bool normalize, double factor, const char* experts_key) {
  Definition d = standard(type, experts_key);
  d.config.update({{"n_group", 4},
                   {"topk_group", 2},
                   {"routed_scaling_factor", factor},
                   {"n_shared_experts", 1},
                   {"first_k_dense_replace", 1},
                   {"norm_topk_prob", normalize}});
  shared_mlp(d, "model.layers.1.mlp.shared_experts", kInner);
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  with_tensor(d, bias, {kExperts}, 0.3, true);
  d.route = [=](const Tensors& t, const Row& logits) {
    return sigmoid_with_bias(logits, t.at(bias).values, 4, 4, 2, normalize, factor);
  };
  return d;
}

Definition ernie() {
  Definition d = standard("ernie4_5_moe", "moe_num_experts");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"moe_k", 4},
                   {"moe_num_shared_experts", 2},
                   {"moe_layer_start_index", 1},
                   {"moe_layer_interval", 2},
                   {"moe_layer_end_index", -1},
                   {"use_bias", false}});
  shared_mlp(d, "model.layers.1.mlp.shared_experts", 2 * kInner);
  const std::string bias = "model.layers.1.mlp.moe_statics.e_score_correction_bias";
  with_tensor(d, bias, {1, kExperts}, 0.1, true);
  d.route = [=](const Tensors& t, const Row& logits) {
    const Row p = softmax(logits);
    Row choice = p;
    for (size_t e = 0; e < p.size(); ++e) choice[e] += t.at(bias).values[e];
    return normalized(gathered(p, topk(choice, 4)), 0, 1e-12);
  };
  return d;
}

Definition llama4(bool nested) {
  Definition d;
  const std::string prefix = nested ? "language_model." : "";
  d.name = nested ? "llama4 nested" : "llama4";
  d.config = base_config("llama4_text", "num_local_experts", "intermediate_size", 1);
  d.config["intermediate_size_mlp"] = 2 * kInner;
  d.config["interleave_moe_layer_step"] = 2;
  if (nested) d.config = {{"model_type", "llama4"}, {"text_config", d.config}};
  const std::string at = prefix + "model.layers.1.feed_forward";
  d.module = at;
  d.router = at + ".router.weight";
  d.make = [=](Maker& m) {
    m.bf16(at + ".experts.gate_up_proj", {kExperts, kHidden, 2 * kInner});
    m.bf16(at + ".experts.down_proj", {kExperts, kInner, kHidden});
  };
  shared_mlp(d, at + ".shared_expert", kInner);
  d.weight_on_input = true;
  d.route = [](const Tensors&, const Row& logits) {
    const auto best = topk(logits, 1);
    return Routed{best, {sigmoid(logits[best[0]])}};
  };
  d.expert = [=](const Tensors& t, size_t e, const Row& x) {
    const auto expert = static_cast<int64_t>(e);
    const Row gate_up = matmul(x, t.at(at + ".experts.gate_up_proj").values, 2 * kInner,
                               expert * kHidden * 2 * kInner);
    Row y(kInner);
    for (size_t i = 0; i < y.size(); ++i) y[i] = gate_up[kInner + i] * silu(gate_up[i]);
    return matmul(y, t.at(at + ".experts.down_proj").values, kHidden, expert * kInner * kHidden);
  };
  return d;
}

Definition granite() {
  Definition d;
  const std::string at = "model.layers.1.block_sparse_moe";
  d.name = "granitemoe";
  d.module = at;
  d.config = base_config("granitemoe", "num_local_experts", "intermediate_size");
  d.router = at + ".router.layer.weight";
  d.make = [=](Maker& m) {
    m.bf16(at + ".input_linear.weight", {kExperts, 2 * kInner, kHidden});
    m.bf16(at + ".output_linear.weight", {kExperts, kHidden, kInner});
  };
  d.route = [](const Tensors&, const Row& logits) {
    Routed r = gathered(logits, topk(logits, 4));
    r.weights = softmax(r.weights);
    return r;
  };
  d.expert = [=](const Tensors& t, size_t e, const Row& x) {
    const auto expert = static_cast<int64_t>(e);
    const Row both =
        linear(t.at(at + ".input_linear.weight").values, x, 2 * kInner, expert * 2 * kInner);
    Row y(kInner);
    for (size_t i = 0; i < y.size(); ++i) y[i] = silu(both[i]) * both[kInner + i];
    return linear(t.at(at + ".output_linear.weight").values, y, kHidden, expert * kHidden);
  };
  return d;
}

Definition hunyuan() {
  Definition d = standard("hunyuan_v1_moe", "num_experts", "intermediate_size");
  d.config.erase("num_experts_per_tok");
  d.config.update({{"moe_topk", {4, 4, 4}},
                   {"moe_intermediate_size", {kInner, kInner, kInner}},
                   {"num_shared_expert", {1, 1, 1}}});
  d.router = "model.layers.1.mlp.gate.wg.weight";
  shared_mlp(d, "model.layers.1.mlp.shared_mlp", kInner);
  d.route = [](const Tensors&, const Row& logits) {
    const Row p = softmax(logits);
    return normalized(gathered(p, topk(p, 4)));
  };
  return d;
}

Definition jamba() {
  Definition d = olmo_like("jamba");
  d.config.update({{"expert_layer_period", 2}, {"expert_layer_offset", 1}});
  d.module = "model.layers.1.feed_forward";
  d.router = d.module + ".router.weight";
  d.make = nullptr;
  separate(d, d.module);
  return d;
}

Definition phimoe() {
  Definition d = mixtral_like("phimoe");
  d.config["num_experts_per_tok"] = 2;
  d.config["router_jitter_noise"] = 0.05;
  d.router_range = 0.02;  // so that several logits are within the threshold of the largest
  d.route = [](const Tensors&, const Row& logits) { return sparsemixer(logits, 0.05); };
  return d;
}

// gpt-oss with its experts as published: MXFP4 blocks, gate and up rows alternating; or in bf16 as
// transformers writes them, transposed.
Definition gpt_oss(bool mxfp4) {
  Definition d;
  const std::string at = "model.layers.1.mlp";
  d.name = mxfp4 ? "gpt_oss mxfp4" : "gpt_oss";
  d.config = base_config("gpt_oss", "num_local_experts", "intermediate_size");
  d.config["swiglu_limit"] = 0.5;  // low, so that it matters
  if (mxfp4) d.config["quantization_config"] = {{"quant_method", "mxfp4"}};
  d.router = at + ".router.weight";
  const auto quantized = [](Maker& m, const std::string& name, int64_t rows, int64_t cols) {
    static const double kFp4[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    Stored blocks{{kExperts, rows, cols / 32, 16}, DType::Bf16, {}, {}};
    Stored scales{{kExperts, rows, cols / 32}, DType::Bf16, {}, {}};
    for (int64_t block = 0; block < kExperts * rows * cols / 32; ++block) {
      const auto exponent = static_cast<uint8_t>(127 - 6 + static_cast<int>(m.bits() % 3));
      Maker::append(scales, exponent);
      for (int pair = 0; pair < 16; ++pair) {
        const auto bits = static_cast<uint8_t>(m.bits());
        Maker::append(blocks, bits);
        for (const unsigned nibble : {bits & 15u, bits >> 4 & 15u})
          blocks.values.push_back((nibble & 8 ? -1 : 1) * kFp4[nibble & 7] *
                                  std::pow(2.0, exponent - 127));
      }
    }
    m.tensors[name + "_blocks"] = std::move(blocks);
    m.tensors[name + "_scales"] = std::move(scales);
  };
  d.make = [=](Maker& m) {
    if (mxfp4) {
      quantized(m, at + ".experts.gate_up_proj", 2 * kInner, kHidden);
      quantized(m, at + ".experts.down_proj", kHidden, kInner);
    } else {
      m.bf16(at + ".experts.gate_up_proj", {kExperts, kHidden, 2 * kInner});
      m.bf16(at + ".experts.down_proj", {kExperts, kInner, kHidden});
    }
    m.bf16(at + ".experts.gate_up_proj_bias", {kExperts, 2 * kInner}, 0.5);
    m.bf16(at + ".experts.down_proj_bias", {kExperts, kHidden}, 0.5);
    m.bf16(at + ".router.bias", {kExperts}, 0.5);
  };
  d.route = [=](const Tensors& t, const Row& without_bias) {
    Row logits = without_bias;
    for (size_t e = 0; e < logits.size(); ++e) logits[e] += t.at(at + ".router.bias").values[e];
    Routed r = gathered(logits, topk(logits, 4));
    r.weights = softmax(r.weights);
    return r;
  };
  d.expert = [=](const Tensors& t, size_t e, const Row& x) {
    const auto expert = static_cast<int64_t>(e);
    Row both = mxfp4 ? linear(t.at(at + ".experts.gate_up_proj_blocks").values, x, 2 * kInner,
                              expert * 2 * kInner)
                     : matmul(x, t.at(at + ".experts.gate_up_proj").values, 2 * kInner,
                              expert * kHidden * 2 * kInner);
    const Row &b1 = t.at(at + ".experts.gate_up_proj_bias").values,
              &b2 = t.at(at + ".experts.down_proj_bias").values;
    Row y(kInner);
    for (size_t i = 0; i < y.size(); ++i) {
      const double gate = std::min(both[2 * i] + b1[e * 2 * kInner + 2 * i], 0.5);
      const double up = std::clamp(both[2 * i + 1] + b1[e * 2 * kInner + 2 * i + 1], -0.5, 0.5);
      y[i] = (up + 1) * gate * sigmoid(1.702 * gate);
    }
    Row out =
        mxfp4
            ? linear(t.at(at + ".experts.down_proj_blocks").values, y, kHidden, expert * kHidden)
            : matmul(y, t.at(at + ".experts.down_proj").values, kHidden, expert * kInner * kHidden);
    for (size_t h = 0; h < out.size(); ++h) out[h] += b2[e * kHidden + h];
    return out;
  };
  return d;
}

// DeepSeek-V3 as published: matrices in e4m3 with a scale for each block, here of 32 x 48 so that
// blocks are cut at both edges.
Definition fp8(Definition d) {
  d.name += " fp8";
  d.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {32, 48}}};
  d.make = [before = d.make](Maker& m) {
    before(m);
    Tensors scales;
    for (auto& [name, t] : m.tensors) {
      if (!name.ends_with("_proj.weight")) continue;
      const int64_t rows = t.shape[0], cols = t.shape[1];
      const int64_t scale_rows = (rows + 31) / 32, scale_cols = (cols + 47) / 48;
      Stored scale{{scale_rows, scale_cols}, DType::F32, {}, {}};
      for (int64_t i = 0; i < scale_rows * scale_cols; ++i) {
        const auto value = static_cast<float>(0.0004 * (1.5 + m.uniform()));
        Maker::append(scale, value);
        scale.values.push_back(value);
      }
      t.bytes.clear();
      for (int64_t i = 0; i < rows * cols; ++i) {
        auto bits = static_cast<uint8_t>(m.bits());
        if ((bits & 0x7f) == 0x7f) bits ^= 1;  // NaN
        const int exponent = bits >> 3 & 15, mantissa = bits & 7;
        const double magnitude = exponent == 0 ? mantissa * std::pow(2.0, -9)
                                               : (8 + mantissa) * std::pow(2.0, exponent - 10);
        const double value =
            (bits & 0x80 ? -magnitude : magnitude) *
            scale.values[static_cast<size_t>(i / cols / 32 * scale_cols + i % cols / 48)];
        Maker::append(t, bits);
        // "Exactly" is to bf16: the product in fp32, then one rounding.
        t.values[static_cast<size_t>(i)] = static_cast<float>(Bf16(static_cast<float>(value)));
      }
      scales[name + "_scale_inv"] = std::move(scale);
    }
    m.tensors.merge(scales);
  };
  return d;
}

std::vector<Definition> definitions() {
  std::vector<Definition> all = {
      qwen_like("qwen2_moe", false, true),
      qwen_like("qwen3_moe", true, false),
      qwen_like("qwen3_next", true, true),
      olmo_like("olmoe"),
      olmo_like("flex_olmo"),
      mixtral_like("mixtral"),
      mixtral_like("minimax"),
      deepseek_v2("greedy"),
      deepseek_v2("group_limited_greedy"),
      sigmoid_like("deepseek_v3", true, 2.5, "n_routed_experts"),
      sigmoid_like("kimi_k2", true, 2.827, "n_routed_experts"),
      sigmoid_like("glm4_moe", true, 1.0, "n_routed_experts"),
      sigmoid_like("dots1", false, 1.5, "n_routed_experts"),
      ernie(),
      llama4(false),
      llama4(true),
      granite(),
      hunyuan(),
      jamba(),
      phimoe(),
      gpt_oss(false),
      gpt_oss(true),
      fp8(sigmoid_like("deepseek_v3", true, 2.5, "n_routed_experts")),
  };
  return all;
}

// safetensors dtypes that have no DType are written by hand.
void write_checkpoint(const TemporaryFolder& folder, const Definition& d, const Tensors& tensors) {
  testing::write_file(folder / "config.json", d.config.dump());
  json header;
  std::string data;
  for (const auto& [name, t] : tensors) {
    std::vector<int64_t> shape;
    for (int i = 0; i < t.shape.rank(); ++i) shape.push_back(t.shape[i]);
    const auto element = t.bytes.size() / static_cast<size_t>(t.shape.count());
    const bool is_mx = name.ends_with("_blocks") || name.ends_with("_scales");
    const char* dtype = element == 4 ? "F32" : element == 2 ? "BF16" : is_mx ? "U8" : "F8_E4M3";
    header[name] = {{"dtype", dtype},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  testing::write_file(folder / "model.safetensors",
                      std::string(reinterpret_cast<const char*>(&size), 8) + text + data);
}

Row expected_row(const Definition& d, const Tensors& t, const Row& x) {
  const Routed routed = d.route(t, linear(t.at(d.router).values, x, kExperts));
  Row y(kHidden, 0.0);
  for (size_t k = 0; k < routed.experts.size(); ++k) {
    Row in = x;
    if (d.weight_on_input)
      for (double& v : in) v *= routed.weights[k];
    const Row out = d.expert(t, routed.experts[k], in);
    for (size_t h = 0; h < y.size(); ++h)
      y[h] += out[h] * (d.weight_on_input ? 1.0 : routed.weights[k]);
  }
  if (!d.shared) return y;
  const Row more = d.shared(t, x);
  for (size_t h = 0; h < y.size(); ++h) y[h] += more[h];
  return y;
}

class FamilyDefinition : public ::testing::TestWithParam<Definition> {};
INSTANTIATE_TEST_SUITE_P(All, FamilyDefinition, ::testing::ValuesIn(definitions()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

TEST_P(FamilyDefinition, MatchesItsPublishedModelCode) {
  const Definition& d = GetParam();
  Maker maker(std::hash<std::string>{}(d.name));
  maker.bf16(d.router, {kExperts, kHidden}, d.router_range);
  d.make(maker);
  const TemporaryFolder folder;
  write_checkpoint(folder, d, maker.tensors);

  const auto hidden = testing::random_bf16({kTokens, kHidden}, 77);
  Buffer<double> expected({kTokens, kHidden});
  for (int64_t t = 0; t < kTokens; ++t) {
    Row x;
    for (int64_t h = 0; h < kHidden; ++h) x.push_back(static_cast<float>(hidden[t * kHidden + h]));
    const Row y = expected_row(d, maker.tensors, x);
    std::copy(y.begin(), y.end(), expected.data() + t * kHidden);
  }

  const auto checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint->stored_format(d.layer), d.name.ends_with(" fp8")     ? "fp8 in 32x48 blocks"
                                                : d.name.ends_with(" mxfp4") ? "mxfp4"
                                                                             : "bf16");
  EXPECT_EQ(checkpoint->module_path(d.layer), d.module);
  LayerOptions options;
  options.max_tokens = kTokens;
  options.num_threads = 1;
  for (const int ranks : {1, 2}) {
    std::vector<Difference> differences(static_cast<size_t>(ranks));
    run_local_ranks(ranks, [&](Communicator& comm) {
      auto layer =
          MoeLayer::create(checkpoint->config(d.layer),
                           checkpoint->load_layer(d.layer, ranks, comm.rank()), comm, options);
      Buffer<Bf16> output({kTokens, kHidden});
      layer->forward({.output = output.view(), .hidden = hidden.view()});
      layer->wait();
      differences[static_cast<size_t>(comm.rank())] =
          compare(std::as_const(output).view(), std::as_const(expected).view());
    });
    for (const auto& difference : differences) {
      EXPECT_LE(difference.rel_error, 4e-3);
      EXPECT_LE(difference.max_row_error, 2e-2) << "row " << difference.worst_row;
    }
  }
}

TEST(FamilyDefinitions, CoverEveryFamily) {
  for (const auto& family : known_families()) {
    const auto all = definitions();
    EXPECT_TRUE(std::any_of(all.begin(), all.end(), [&](const Definition& d) {
      return d.name.substr(0, d.name.find(' ')) == family;
    })) << family;
  }
}

}  // namespace
}  // namespace switchyard
