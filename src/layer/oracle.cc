// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/oracle.cc -- the layer in float64, independent of the operations it is there to verify.
#include "switchyard/oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/require.h"

namespace switchyard {
namespace {

using Row = std::vector<double>;

Row row_of(ConstTensor t, int64_t row) {
  const int64_t width = t.count() / t.dim(0);
  Row values(static_cast<size_t>(width));
  for (int64_t i = 0; i < width; ++i) {
    const int64_t at = row * width + i;
    switch (t.dtype) {
      case DType::Bf16:
        values[static_cast<size_t>(i)] = static_cast<float>(t.as<Bf16>()[at]);
        break;
      case DType::F32: values[static_cast<size_t>(i)] = t.as<float>()[at]; break;
      default: values[static_cast<size_t>(i)] = t.as<double>()[at]; break;
    }
  }
  return values;
}

template <class Weight>
double dot(const Row& x, const Weight* w) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * double{static_cast<float>(w[i])};
  return sum;
}

// y = W x + b for W [n, x.size()] at `w`.
template <class Weight>
Row multiply(const Weight* w, int64_t n, const Row& x, const float* bias) {
  Row y(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j)
    y[static_cast<size_t>(j)] =
        dot(x, w + j * static_cast<int64_t>(x.size())) + (bias ? double{bias[j]} : 0.0);
  return y;
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

struct Float64 {
  static double times_sigmoid(double x, double y) { return x * sigmoid(y); }
  static double times_gelu(double x, double y) { return x * 0.5 * (1 + std::tanh(y)); }
  static double erf(double x) { return std::erf(x); }
  static double tanh(double x) { return std::tanh(x); }
};

double activate(const Activation& a, double gate, double up) {
  double y = 0;
  Activations::visit(a.kind, [&]<ActivationKind k>() {
    y = ActivationRule<k>::of(Float64(), gate, up, double{a.alpha}, double{a.limit});
  });
  return y;
}

// Matrix e of [E, N, K].
struct Matrix {
  ConstTensor all;
  BlockScales scales;  // of f8_e4m3
  int64_t e = 0;
};

// W x of f8_e4m3: what shares a scale is summed before it is multiplied by it.
Row multiply_f8(const Matrix& m, int64_t n, const Row& x) {
  const auto k = static_cast<int64_t>(x.size());
  const ConstTensor& values = m.scales.values;
  const ScaleBlock& block = m.scales.block;
  Row y(static_cast<size_t>(n), 0);
  for (int64_t j = 0; j < n; ++j) {
    const F8E4m3* row = m.all.as<F8E4m3>() + (m.e * n + j) * k;
    const float* scales =
        values.as<float>() + (m.e * values.dim(1) + j / block.rows) * values.dim(2);
    for (int64_t b = 0; b < values.dim(2); ++b) {
      const int64_t first = b == 0 ? 0 : b * block.cols;
      double sum = 0;
      for (int64_t i = first; i < first + std::min(block.cols, k - first); ++i)
        sum += x[static_cast<size_t>(i)] * double{static_cast<float>(row[i])};
      y[static_cast<size_t>(j)] += double{scales[b]} * sum;
    }
  }
  return y;
}

Row multiply(const Matrix& m, int64_t n, const Row& x) {
  if (m.scales.present()) return multiply_f8(m, n, x);
  return multiply(m.all.as<Bf16>() + m.e * n * static_cast<int64_t>(x.size()), n, x, nullptr);
}

// One expert on one token. The weight scales W1 x when it stands on the input.
struct Expert {
  Matrix w1, w2;
  const float *b1, *b2;
  GateUpOrder order;
  int64_t intermediate;
};

Row run_expert(const Expert& e, const Activation& a, const Row& x, double input_weight) {
  const int64_t rows = a.gated() ? 2 * e.intermediate : e.intermediate;
  Row sums = multiply(e.w1, rows, x);
  for (int64_t j = 0; j < rows; ++j)
    sums[static_cast<size_t>(j)] =
        sums[static_cast<size_t>(j)] * input_weight + (e.b1 ? double{e.b1[j]} : 0.0);
  Row y(static_cast<size_t>(e.intermediate));
  for (size_t i = 0; i < y.size(); ++i) {
    const double first = sums[i], second = a.gated() ? sums[i + y.size()] : 0;
    const bool up_first = a.gated() && e.order == GateUpOrder::UpGate;
    y[i] = up_first ? activate(a, second, first) : activate(a, first, second);
  }
  Row out = multiply(e.w2, static_cast<int64_t>(x.size()), y);
  for (size_t h = 0; e.b2 != nullptr && h < out.size(); ++h) out[h] += double{e.b2[h]};
  return out;
}

// ---- gate

struct Choice {
  std::vector<int64_t> ids;
  std::vector<double> weights;
  std::vector<double> shared;  // weights of scored shared experts
};

int64_t best_of(const Row& scores, const std::vector<bool>& allowed) {
  int64_t best = -1;
  for (size_t e = 0; e < scores.size(); ++e)
    if (allowed[e] && (best < 0 || scores[e] > scores[static_cast<size_t>(best)]))
      best = static_cast<int64_t>(e);
  return best;
}

std::vector<int64_t> top(const Row& scores, int64_t count, std::vector<bool> allowed) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(best_of(scores, allowed));
    allowed[static_cast<size_t>(ids.back())] = false;
  }
  return ids;
}

std::vector<bool> experts_of_kept_groups(const Row& scores, const GateConfig& g) {
  std::vector<bool> allowed(scores.size(), true);
  if (g.num_groups == g.num_groups_kept) return allowed;
  const size_t size = scores.size() / static_cast<size_t>(g.num_groups);
  Row group_scores;
  for (int64_t i = 0; i < g.num_groups; ++i) {
    Row members(scores.begin() + i * static_cast<int64_t>(size),
                scores.begin() + (i + 1) * static_cast<int64_t>(size));
    std::sort(members.rbegin(), members.rend());
    group_scores.push_back(members[0] +
                           (g.group_score == GroupScore::Top2Sum && size > 1 ? members[1] : 0));
  }
  const auto kept =
      top(group_scores, g.num_groups_kept, std::vector<bool>(group_scores.size(), true));
  for (size_t e = 0; e < scores.size(); ++e)
    allowed[e] = std::find(kept.begin(), kept.end(), static_cast<int64_t>(e / size)) != kept.end();
  return allowed;
}

// exp(x - max of the allowed) over their sum; 0 elsewhere.
Row softmax(const Row& logits, const std::vector<bool>& allowed) {
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (size_t e = 0; e < logits.size(); ++e)
    if (allowed[e]) max = std::max(max, logits[e]);
  Row p(logits.size(), 0);
  for (size_t e = 0; e < logits.size(); ++e)
    if (allowed[e]) sum += p[e] = std::exp(logits[e] - max);
  for (double& v : p) v /= sum;
  return p;
}

Choice sparse_mixer(const Row& logits, const GateConfig& g) {
  Choice choice;
  std::vector<bool> left(logits.size(), true);
  for (int k = 0; k < 2; ++k) {
    const int64_t best = best_of(logits, left);
    const double max = logits[static_cast<size_t>(best)];
    auto near = left;
    for (size_t e = 0; e < logits.size(); ++e)
      near[e] = near[e] && !((max - logits[e]) / std::max(std::abs(logits[e]), max) >
                             2 * double{g.jitter_epsilon});
    choice.ids.push_back(best);
    choice.weights.push_back(softmax(logits, near)[static_cast<size_t>(best)]);
    left[static_cast<size_t>(best)] = false;
  }
  return choice;
}

double score_of(double logit, Scoring scoring) {
  if (scoring == Scoring::Sigmoid) return sigmoid(logit);
  if (scoring == Scoring::SqrtSoftplus)
    return std::sqrt(std::max(logit, 0.0) + std::log1p(std::exp(-std::abs(logit))));
  return logit;
}

// What decides the choice: scores, with the bias that only the choice sees.
Row choosing_scores(const Row& logits, const Row& scores, const float* correction_bias,
                    const GateConfig& g) {
  // The order of logits is that of such scores, and it does not saturate.
  const bool monotone = g.scoring == Scoring::Sigmoid || g.scoring == Scoring::SqrtSoftplus;
  Row choosing = monotone && !correction_bias && g.num_groups == 1 ? logits : scores;
  for (size_t e = 0; correction_bias && e < choosing.size(); ++e)
    choosing[e] += double{correction_bias[e]};
  return choosing;
}

void renormalize(Choice& choice, const GateConfig& g) {
  double sum = 0;
  for (const double w : choice.weights) sum += w;
  for (const double w : choice.shared) sum += w;
  const double epsilon = g.renormalize_epsilon;
  const double divisor = !g.renormalize         ? 1
                         : g.clamp_renormalizer ? std::max(sum, epsilon)
                                                : sum + epsilon;
  for (double& w : choice.weights) w = w / divisor * double{g.scale};
  for (double& w : choice.shared) w = w / divisor * double{g.scale};
}

// `table`: the ids that a token's id chose, or null.
Choice choose(const Row& logits, const float* correction_bias, const int32_t* table,
              const MoeConfig& c) {
  const GateConfig& g = c.gate;
  const std::vector<bool> all(logits.size(), true);
  Choice choice;
  if (g.scoring == Scoring::SparseMixer) {
    choice = sparse_mixer(logits, g);
  } else {
    Row scores = g.scoring == Scoring::Softmax ? softmax(logits, all) : logits;
    for (double& s : scores) s = score_of(s, g.scoring);
    const Row choosing = choosing_scores(logits, scores, correction_bias, g);
    choice.ids = table ? std::vector<int64_t>(table, table + c.top_k)
                       : top(choosing, c.top_k, experts_of_kept_groups(choosing, g));
    Row chosen;
    for (const int64_t id : choice.ids) chosen.push_back(scores[static_cast<size_t>(id)]);
    choice.weights = g.scoring == Scoring::SoftmaxOfTopK
                         ? softmax(chosen, std::vector<bool>(chosen.size(), true))
                         : chosen;
  }
  return choice;
}

// Of hidden states as they are, or divided by their root mean square.
Row logits_of(const MoeConfig& c, const RouterWeights& router, const Row& x) {
  const float* bias = router.bias.present() ? router.bias.as<float>() : nullptr;
  Row in = x;
  if (c.gate.rms_of_hidden) {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double mean = squares / static_cast<double>(x.size());
    for (double& v : in) v /= std::sqrt(mean + double{c.path.norm_epsilon});
  }
  Row logits = c.router_f32 ? multiply(router.weight.as<float>(), c.router_rows(), in, bias)
                            : multiply(router.weight.as<Bf16>(), c.router_rows(), in, bias);
  const double cap = c.gate.logit_softcap;
  if (cap > 0)
    for (double& v : logits) v = cap * std::tanh(v / cap);
  return logits;
}

int64_t int_at(ConstTensor t, int64_t i) {
  return t.dtype == DType::I64 ? t.as<int64_t>()[i] : t.as<int32_t>()[i];
}

// token: its id, where ids choose.
Choice gate_of(const MoeConfig& c, const RouterWeights& router, const Row& x, int64_t token) {
  const Row all = logits_of(c, router, x);
  const Row logits(all.begin(), all.begin() + c.num_choices());
  const bool by_token = c.gate.vocabulary > 0;
  SWITCHYARD_REQUIRE(!by_token || (token >= 0 && token < c.gate.vocabulary), BadRouting,
                     "oracle: token id=", token, ", need 0 to ", c.gate.vocabulary - 1, ".");
  Choice choice = choose(
      logits, router.correction_bias.present() ? router.correction_bias.as<float>() : nullptr,
      by_token ? router.token_experts.as<int32_t>() + token * c.top_k : nullptr, c);
  for (int64_t s = 0; s < c.shared.num_scored; ++s)
    choice.shared.push_back(
        score_of(all[static_cast<size_t>(c.num_choices() + s)], c.gate.scoring));
  renormalize(choice, c.gate);
  if (!c.gate.expert_scale) return choice;
  const float* scale = router.expert_scale.as<float>();
  for (size_t k = 0; k < choice.ids.size(); ++k) choice.weights[k] *= double{scale[choice.ids[k]]};
  for (size_t s = 0; s < choice.shared.size(); ++s)
    choice.shared[s] *= double{scale[static_cast<size_t>(c.num_choices()) + s]};
  return choice;
}

Choice given(ConstTensor ids, ConstTensor weights, int64_t token) {
  Choice choice;
  for (int64_t k = 0; k < ids.dim(1); ++k) {
    choice.ids.push_back(ids.as<int32_t>()[token * ids.dim(1) + k]);
    choice.weights.push_back(weights.as<float>()[token * ids.dim(1) + k]);
  }
  return choice;
}

Expert expert_of(const LayerWeights& w, const MoeConfig& c, int64_t e) {
  const int64_t rows = c.w1_rows(), h = c.routed_hidden();
  const auto& x = w.experts;
  return {{x.w1, x.w1_scales, e},
          {x.w2, x.w2_scales, e},
          x.b1.present() ? x.b1.as<float>() + e * rows : nullptr,
          x.b2.present() ? x.b2.as<float>() + e * h : nullptr,
          x.order,
          c.intermediate};
}

void add(Row& sum, const Row& row, double weight) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * row[i];
}

Row normed(const Row& x, const float* weight, double epsilon) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double root = std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  Row y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / root * double{weight[i]};
  return y;
}

Row run_routed(const MoeConfig& c, const LayerWeights& w, const Row& x, const Choice& choice) {
  const double epsilon = c.path.norm_epsilon;
  Row in = c.path.input_norm ? normed(x, w.path.input_norm.as<float>(), epsilon) : x;
  if (c.path.latent > 0) in = multiply(w.path.down.as<Bf16>(), c.path.latent, in, nullptr);
  Row sum(in.size(), 0);
  for (size_t k = 0; k < choice.ids.size(); ++k) {
    const int64_t id = choice.ids[k];
    const double weight = choice.weights[k];
    if (id >= c.num_experts && id < c.num_choices()) add(sum, in, weight);
    if (id < 0 || id >= c.num_experts) continue;
    const auto row =
        run_expert(expert_of(w, c, id), c.activation, in, c.router_weight_on_input ? weight : 1);
    add(sum, row, c.router_weight_on_input ? 1 : weight);
  }
  if (c.path.output_norm) sum = normed(sum, w.path.output_norm.as<float>(), epsilon);
  return c.path.latent > 0 ? multiply(w.path.up.as<Bf16>(), c.hidden, sum, nullptr) : sum;
}

Row run_token(const MoeConfig& c, const LayerWeights& w, const Row& x, const Choice& choice) {
  Row sum = run_routed(c, w, x, choice);
  if (c.shared.intermediate == 0) return sum;
  const int64_t parts = std::max<int64_t>(1, c.shared.num_scored);
  const int64_t inner = c.shared.intermediate / parts;
  for (int64_t s = 0; s < parts; ++s) {
    const Expert shared{
        {w.shared.w1, {}, s}, {w.shared.w2, {}, s}, nullptr, nullptr, w.shared.order, inner};
    const double weight = c.shared.num_scored > 0  ? choice.shared[static_cast<size_t>(s)]
                          : c.shared.sigmoid_gated ? sigmoid(dot(x, w.shared.gate.as<Bf16>()))
                                                   : 1;
    add(sum, run_expert(shared, c.shared_activation(), x, 1), weight);
  }
  return sum;
}

// A NaN is worse than any number and stays.
bool keep_worst(double& worst, double value) {
  if (std::isnan(worst) || value <= worst) return false;
  worst = value;
  return true;
}

int64_t id_at(ConstTensor token_ids, int64_t t) {
  return token_ids.present() ? int_at(token_ids, t) : -1;
}

void check_token_ids(const MoeConfig& c, ConstTensor t, bool by_gate, int64_t num_tokens) {
  if (c.gate.vocabulary == 0 || !by_gate) return;
  SWITCHYARD_REQUIRE(
      t.shape == Shape{num_tokens} && (t.dtype == DType::I32 || t.dtype == DType::I64),
      ShapeMismatch, "oracle: token_ids is not i32 or i64 [", num_tokens, "].");
}

void check_hidden(const MoeConfig& config, ConstTensor hidden) {
  validate(config);
  SWITCHYARD_REQUIRE(
      hidden.shape.rank() == 2 && hidden.dim(1) == config.hidden && hidden.dtype == DType::Bf16,
      ShapeMismatch, "oracle: hidden is not bf16 [T, ", config.hidden, "].");
}

}  // namespace

void oracle_forward(Tensor dst, const MoeConfig& config, const LayerWeights& given_weights,
                    ConstTensor hidden, ConstTensor ids, ConstTensor router_weights,
                    ConstTensor token_ids) {
  check_hidden(config, hidden);
  const LayerWeights weights =
      arrange_weights(given_weights, config, 1, *make_cpu_backend(1, CpuForm::Plain));
  const int64_t num_tokens = hidden.dim(0);
  SWITCHYARD_REQUIRE(dst.shape == hidden.shape && dst.dtype == DType::F64, ShapeMismatch,
                     "oracle: dst is not f64 [", num_tokens, ", ", config.hidden, "].");
  SWITCHYARD_REQUIRE(ids.present() || weights.router.weight.present(), ShapeMismatch,
                     "oracle: neither ids nor router weights. Give one of them.");
  if (ids.present()) {
    const Shape slots{num_tokens, config.top_k};
    SWITCHYARD_REQUIRE(ids.shape == slots && ids.dtype == DType::I32 &&
                           router_weights.shape == slots && router_weights.dtype == DType::F32,
                       ShapeMismatch, "oracle: ids or weights are not i32 and f32 [", num_tokens,
                       ", ", config.top_k, "].");
    SWITCHYARD_REQUIRE(
        config.shared.num_scored == 0, Unsupported,
        "oracle: ids are given, but the gate weighs shared experts. Leave ids away.");
  }
  check_token_ids(config, token_ids, !ids.present(), num_tokens);
  for (int64_t t = 0; t < num_tokens; ++t) {
    const Row x = row_of(hidden, t);
    const Choice choice = ids.present() ? given(ids, router_weights, t)
                                        : gate_of(config, weights.router, x, id_at(token_ids, t));
    const Row y = run_token(config, weights, x, choice);
    std::copy(y.begin(), y.end(), dst.as<double>() + t * config.hidden);
  }
}

void oracle_gate(Tensor ids, Tensor weights, const MoeConfig& config, const RouterWeights& router,
                 ConstTensor hidden, ConstTensor token_ids) {
  check_hidden(config, hidden);
  check_token_ids(config, token_ids, true, hidden.dim(0));
  const Shape slots{hidden.dim(0), config.top_k};
  SWITCHYARD_REQUIRE(ids.shape == slots && ids.dtype == DType::I32 && weights.shape == slots &&
                         weights.dtype == DType::F64,
                     ShapeMismatch, "oracle_gate: ids or weights are not i32 and f64 [",
                     hidden.dim(0), ", ", config.top_k, "].");
  for (int64_t t = 0; t < hidden.dim(0); ++t) {
    const Choice choice = gate_of(config, router, row_of(hidden, t), id_at(token_ids, t));
    for (int64_t k = 0; k < config.top_k; ++k) {
      ids.as<int32_t>()[t * config.top_k + k] =
          static_cast<int32_t>(choice.ids[static_cast<size_t>(k)]);
      weights.as<double>()[t * config.top_k + k] = choice.weights[static_cast<size_t>(k)];
    }
  }
}

Difference compare(ConstTensor actual, ConstTensor expected) {
  const bool real =
      expected.dtype == DType::F64 || expected.dtype == DType::F32 || expected.dtype == DType::Bf16;
  SWITCHYARD_REQUIRE(actual.shape == expected.shape && actual.shape.rank() == 2 && real &&
                         (actual.dtype == DType::Bf16 || actual.dtype == DType::F32),
                     ShapeMismatch,
                     "compare: tensors are not two [T, H] of real numbers of one shape.");
  Difference d;
  double error = 0, norm = 0, cross = 0, squares = 0;
  for (int64_t t = 0; t < actual.dim(0); ++t) {
    const Row x = row_of(actual, t), y = row_of(expected, t);
    double row_error = 0, row_norm = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      row_error += (x[i] - y[i]) * (x[i] - y[i]);
      row_norm += y[i] * y[i];
      cross += x[i] * y[i];
      squares += x[i] * x[i] + y[i] * y[i];
      keep_worst(d.max_abs_error, std::abs(x[i] - y[i]));
    }
    error += row_error;
    norm += row_norm;
    const double relative = row_norm > 0 ? std::sqrt(row_error / row_norm) : std::sqrt(row_error);
    if (keep_worst(d.max_row_error, relative)) d.worst_row = t;
  }
  d.rel_error = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  d.calc_diff = squares > 0 ? 1 - 2 * cross / squares : (std::isnan(squares) ? squares : 0);
  return d;
}

}  // namespace switchyard
