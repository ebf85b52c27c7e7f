// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
#include "testing/family_definitions.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>
#include <stdexcept>

#include "testing/temporary_folder.h"

namespace switchyard::testing {

// ---- tensors

void Maker::bf16(const std::string& name, Shape shape, double range, double middle) {
  Stored t{shape, "BF16", {}, {}};
  for (int64_t i = 0; i < shape.count(); ++i) {
    const Bf16 value(static_cast<float>(middle + uniform() * range));
    append(t, value);
    t.values.push_back(static_cast<float>(value));
  }
  tensors[name] = std::move(t);
  std::erase_if(f32_, [&](const F32& other) { return other.name == name; });
}

void Maker::f32(const std::string& name, Shape shape, double range, double middle) {
  f32_.push_back({name, shape, range, middle});
  draw(f32_.back());
}

void Maker::draw(const F32& tensor) {
  Stored t{tensor.shape, "F32", {}, {}};
  for (int64_t i = 0; i < tensor.shape.count(); ++i) {
    const auto value = static_cast<float>(tensor.middle + uniform() * tensor.range);
    append(t, value);
    t.values.push_back(value);
  }
  tensors[tensor.name] = std::move(t);
}

void Maker::draw_f32_again() {
  for (const F32& tensor : f32_) draw(tensor);
}

void Maker::i64_table(const std::string& name, Shape shape, int64_t bound) {
  Stored t{shape, "I64", {}, {}};
  std::vector<int64_t> numbers(static_cast<size_t>(bound));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (int64_t row = 0; row < shape[0]; ++row) {
    std::shuffle(numbers.begin(), numbers.end(), rng_);
    for (int64_t i = 0; i < shape[1]; ++i) {
      append(t, numbers[static_cast<size_t>(i)]);
      t.values.push_back(static_cast<double>(numbers[static_cast<size_t>(i)]));
    }
  }
  tensors[name] = std::move(t);
}

// safetensors dtypes that have no DType are written by hand.
void write_checkpoint(const std::filesystem::path& folder, const Definition& d,
                      const Tensors& tensors) {
  write_file(folder / "config.json", d.config.dump());
  json header;
  std::string data;
  for (const auto& [name, t] : tensors) {
    std::vector<int64_t> shape;
    for (int i = 0; i < t.shape.rank(); ++i) shape.push_back(t.shape[i]);
    header[name] = {{"dtype", t.dtype},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  write_file(folder / "model.safetensors",
             std::string(reinterpret_cast<const char*>(&size), 8) + text + data);
}

// ---- a block

void PrintTo(const Definition& d, std::ostream* out) {
  *out << d.name;
}

Row expected_row(const Definition& d, const Tensors& tensors, const Row& x, int64_t token) {
  const Routed routed = d.route(tensors, d.logits(tensors, x), token);
  const Row seen = d.before ? d.before(tensors, x) : x;
  Row y(seen.size(), 0.0);
  for (size_t k = 0; k < routed.experts.size(); ++k) {
    Row in = seen;
    const double weight = routed.weights[k];
    if (d.weight_on_input)
      for (double& v : in) v *= weight;
    const Row out = d.expert(tensors, routed.experts[k], in);
    for (size_t h = 0; h < y.size(); ++h) y[h] += out[h] * (d.weight_on_input ? 1.0 : weight);
  }
  if (d.after) y = d.after(tensors, y);
  if (d.shared) y = plus(y, d.shared(tensors, x, routed));
  for (double& v : y) v *= d.factor;
  return y;
}

const Buffer<Bf16>& definition_input() {
  static const auto input = random_bf16({kTokens, kHidden}, 77);
  return input;
}

const Buffer<int64_t>& definition_tokens() {
  static const auto tokens = [] {
    Buffer<int64_t> ids({kTokens});
    std::mt19937_64 rng(78);
    for (int64_t t = 0; t < kTokens; ++t) ids[t] = static_cast<int64_t>(rng() % kVocabulary);
    return ids;
  }();
  return tokens;
}

Row definition_row(int64_t t) {
  Row x;
  for (int64_t h = 0; h < kHidden; ++h)
    x.push_back(static_cast<float>(definition_input()[t * kHidden + h]));
  return x;
}

namespace {

std::vector<std::vector<size_t>> all_choices(const Definition& d, const Tensors& tensors) {
  std::vector<std::vector<size_t>> all;
  for (int64_t t = 0; t < kTokens; ++t) {
    all.push_back(
        d.route(tensors, d.logits(tensors, definition_row(t)), definition_tokens()[t]).experts);
    std::sort(all.back().begin(), all.back().end());
  }
  return all;
}

bool chooses_otherwise(const Definition& d, const Tensors& tensors, const std::string& name,
                       double (*change)(double)) {
  Tensors changed = tensors;
  for (double& v : changed[name].values) v = change(v);
  return all_choices(d, changed) != all_choices(d, tensors);
}

// Whether each F32 tensor that chooses experts sends some token elsewhere when it is rounded.
bool rounding_shows(const Definition& d, const Tensors& tensors) {
  const auto zero = [](double) { return 0.0; };
  const auto rounded = [](double v) {
    return static_cast<double>(static_cast<float>(Bf16(static_cast<float>(v))));
  };
  for (const auto& [name, tensor] : tensors)
    if (tensor.dtype == "F32" && tensor.shape.count() >= kExperts &&
        chooses_otherwise(d, tensors, name, zero) && !chooses_otherwise(d, tensors, name, rounded))
      return false;
  return true;
}

}  // namespace

Tensors make_tensors(const Definition& d) {
  Maker maker(std::hash<std::string>{}(d.name));
  for (const auto& make : d.tensors) make(maker);
  for (int tries = 0; tries < 1000 && !rounding_shows(d, maker.tensors); ++tries)
    maker.draw_f32_again();
  return maker.tensors;
}

Buffer<double> expected_output(const Definition& d, const Tensors& tensors) {
  Buffer<double> expected({kTokens, kHidden});
  for (int64_t t = 0; t < kTokens; ++t) {
    const Row y = expected_row(d, tensors, definition_row(t), definition_tokens()[t]);
    std::copy(y.begin(), y.end(), expected.data() + t * kHidden);
  }
  return expected;
}

// ---- float64 pieces of model code

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double silu_gated(double gate, double up) {
  return silu(gate) * up;
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

Row rms_normalized(Row x, double epsilon) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double rms = std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  for (double& v : x) v /= rms;
  return x;
}

Row times(Row x, const Row& weight) {
  for (size_t i = 0; i < x.size(); ++i) x[i] *= weight[i];
  return x;
}

Row plus(Row x, const Row& more) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += more[i];
  return x;
}

Row each(Row x, double (*f)(double)) {
  for (double& v : x) v = f(v);
  return x;
}

Routed gathered(const Row& scores, const std::vector<size_t>& experts) {
  Routed r{experts, {}};
  for (const size_t e : experts) r.weights.push_back(scores[e]);
  return r;
}

Routed normalized(Routed r, double epsilon, double floor) {
  const double sum = std::accumulate(r.weights.begin(), r.weights.end(), 0.0);
  for (double& w : r.weights) w /= std::max(sum, floor) + epsilon;
  return r;
}

Routed scaled(Routed r, double factor) {
  for (double& w : r.weights) w *= factor;
  return r;
}

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

// ---- how matrices are stored

Row product(const Tensors& t, const View& w, const Row& x, int64_t rows) {
  const Row& values = t.at(w.tensor).values;
  Row y(static_cast<size_t>(rows), 0.0);
  for (int64_t o = 0; o < rows; ++o)
    for (size_t i = 0; i < x.size(); ++i)
      y[static_cast<size_t>(o)] +=
          values.at(static_cast<size_t>(w.first + o * w.row_step +
                                        static_cast<int64_t>(i) * w.col_step)) *
          x[i];
  return y;
}

Row ffn(const Tensors& t, const Ffn& f, const Act& act, const Row& x) {
  Row up = product(t, f.up, x, f.inner);
  const Row gate = f.gate.tensor.empty() ? up : product(t, f.gate, x, f.inner);
  for (size_t i = 0; i < up.size(); ++i) up[i] = act(gate[i], up[i]);
  return product(t, f.down, up, static_cast<int64_t>(x.size()));
}

namespace {

Ffn one_at(const std::string& at, int64_t inner, int64_t width, Names names) {
  const auto view = [&](const char* name, int64_t step) {
    return View{at + "." + name + ".weight", 0, step, 1};
  };
  return {view(names[0], width), view(names[1], width), view(names[2], inner), inner};
}

void make_one(Maker& m, const std::string& at, int64_t inner, int64_t width, Names names) {
  m.bf16(at + "." + names[0] + ".weight", {inner, width});
  m.bf16(at + "." + names[1] + ".weight", {inner, width});
  m.bf16(at + "." + names[2] + ".weight", {width, inner});
}

}  // namespace

Form one(const std::string& at, int64_t inner, Names names) {
  return {[=](Maker& m) { make_one(m, at, inner, kHidden, names); },
          [=](int64_t) { return one_at(at, inner, kHidden, names); }};
}

Form one_fused(const std::string& gate_up, const std::string& down, int64_t inner) {
  return {[=](Maker& m) {
            m.bf16(gate_up, {2 * inner, kHidden});
            m.bf16(down, {kHidden, inner});
          },
          fused(gate_up, down, {.inner = inner}).expert};
}

Form separate(const std::string& at, Names names, Size size, int64_t first) {
  const auto of = [=](int64_t e) { return at + "." + std::to_string(first + e); };
  return {[=](Maker& m) {
            for (int64_t e = 0; e < size.number; ++e)
              make_one(m, of(e), size.inner, size.width, names);
          },
          [=](int64_t e) { return one_at(of(e), size.inner, size.width, names); }};
}

Form fused(const std::string& gate_up, const std::string& down, Size size) {
  const auto [inner, width, number] = size;
  return {[=](Maker& m) {
            m.bf16(gate_up, {number, 2 * inner, width});
            m.bf16(down, {number, width, inner});
          },
          [=](int64_t e) {
            return Ffn{{gate_up, e * 2 * inner * width, width, 1},
                       {gate_up, (e * 2 + 1) * inner * width, width, 1},
                       {down, e * width * inner, inner, 1},
                       inner};
          }};
}

Form fused(const std::string& at, Size size) {
  return fused(at + ".gate_up_proj", at + ".down_proj", size);
}

Form transposed(const std::string& at, Size size) {
  const auto [inner, width, number] = size;
  const std::string gate_up = at + ".gate_up_proj", down = at + ".down_proj";
  return {[=](Maker& m) {
            m.bf16(gate_up, {number, width, 2 * inner});
            m.bf16(down, {number, inner, width});
          },
          [=](int64_t e) {
            return Ffn{{gate_up, e * width * 2 * inner, 1, 2 * inner},
                       {gate_up, e * width * 2 * inner + inner, 1, 2 * inner},
                       {down, e * inner * width, 1, width},
                       inner};
          }};
}

Form ungated(const std::string& at, Size size) {
  const auto [inner, width, number] = size;
  const auto of = [=](int64_t e, const char* name) {
    return at + "." + std::to_string(e) + "." + name + ".weight";
  };
  return {
      [=](Maker& m) {
        for (int64_t e = 0; e < number; ++e) {
          m.bf16(of(e, "up_proj"), {inner, width});
          m.bf16(of(e, "down_proj"), {width, inner});
        }
      },
      [=](int64_t e) {
        return Ffn{{}, {of(e, "up_proj"), 0, width, 1}, {of(e, "down_proj"), 0, inner, 1}, inner};
      }};
}

Form ungated_fused(const std::string& at, Size size) {
  const auto [inner, width, number] = size;
  return {[=](Maker& m) {
            m.bf16(at + ".up_proj", {number, inner, width});
            m.bf16(at + ".down_proj", {number, width, inner});
          },
          [=](int64_t e) {
            return Ffn{{},
                       {at + ".up_proj", e * inner * width, width, 1},
                       {at + ".down_proj", e * width * inner, inner, 1},
                       inner};
          }};
}

Form ungated_one(const std::string& at, int64_t inner) {
  return {[=](Maker& m) {
            m.bf16(at + ".up_proj.weight", {inner, kHidden});
            m.bf16(at + ".down_proj.weight", {kHidden, inner});
          },
          [=](int64_t) {
            return Ffn{{},
                       {at + ".up_proj.weight", 0, kHidden, 1},
                       {at + ".down_proj.weight", 0, inner, 1},
                       inner};
          }};
}

// ---- building definitions

void tensor_bf16(Definition& d, const std::string& name, Shape shape, double range, double middle) {
  d.tensors.push_back([=](Maker& m) { m.bf16(name, shape, range, middle); });
}

void tensor_f32(Definition& d, const std::string& name, Shape shape, double range, double middle) {
  d.tensors.push_back([=](Maker& m) { m.f32(name, shape, range, middle); });
}

void router(Definition& d, const std::string& name, const RouterOptions& options) {
  const Shape shape{options.rows, kHidden};
  if (options.f32)
    tensor_f32(d, name, shape, options.range);
  else
    tensor_bf16(d, name, shape, options.range);
  d.logits = [=](const Tensors& t, const Row& x) { return product(t, {name}, x, options.rows); };
}

void routed_experts(Definition& d, const Form& form, const Act& act) {
  d.tensors.push_back(form.make);
  d.expert = [=](const Tensors& t, size_t e, const Row& x) {
    return ffn(t, form.expert(static_cast<int64_t>(e)), act, x);
  };
}

void shared_expert(Definition& d, const Form& form, const Act& act) {
  d.tensors.push_back(form.make);
  d.shared = [=](const Tensors& t, const Row& x, const Routed&) {
    return ffn(t, form.expert(0), act, x);
  };
}

void shared_mlp(Definition& d, const std::string& at, int64_t inner, const Act& act) {
  shared_expert(d, one(at, inner), act);
}

Route softmax_top(bool normalize, size_t k) {
  return [=](const Tensors&, const Row& logits, int64_t) {
    const Row p = softmax(logits);
    const Routed r = gathered(p, topk(p, k));
    return normalize ? normalized(r) : r;
  };
}

Route top_softmax() {
  return [](const Tensors&, const Row& logits, int64_t) {
    Routed r = gathered(logits, topk(logits, kTopK));
    r.weights = softmax(r.weights);
    return r;
  };
}

Route biased_sigmoid(const std::string& bias, const SigmoidOptions& o) {
  return [=](const Tensors& t, const Row& logits, int64_t) {
    Row scores = logits;
    for (double& s : scores) s = sigmoid(o.softcap > 0 ? o.softcap * std::tanh(s / o.softcap) : s);
    Row choice = plus(scores, t.at(bias).values);
    if (o.groups > 1) choice = inside_groups(choice, o.groups, o.kept, 2, -INFINITY);
    Routed r = gathered(scores, topk(choice, o.k));
    if (o.normalize) r = normalized(r, o.epsilon);
    return scaled(r, o.factor);
  };
}

void gpt_oss_biases(Definition& d, const std::string& at) {
  tensor_bf16(d, at + ".experts.gate_up_proj_bias", {kExperts, 2 * kInner}, 0.5);
  tensor_bf16(d, at + ".experts.down_proj_bias", {kExperts, kHidden}, 0.5);
  tensor_bf16(d, at + ".router.bias", {kExperts}, 0.5);
  router(d, at + ".router.weight");
  d.route = [=, route = top_softmax()](const Tensors& t, const Row& logits, int64_t token) {
    return route(t, plus(logits, t.at(at + ".router.bias").values), token);
  };
}

Row gpt_oss_expert(const Tensors& t, const std::string& at, const View& w1, const View& w2,
                   size_t expert, const Row& x) {
  const double* b1 = t.at(at + ".experts.gate_up_proj_bias").values.data() + expert * 2 * kInner;
  const double* b2 = t.at(at + ".experts.down_proj_bias").values.data() + expert * kHidden;
  const Row both = product(t, w1, x, 2 * kInner);
  Row y(kInner);
  for (size_t i = 0; i < y.size(); ++i) {
    const double gate = std::min(both[2 * i] + b1[2 * i], 0.5);
    const double up = std::clamp(both[2 * i + 1] + b1[2 * i + 1], -0.5, 0.5);
    y[i] = (up + 1) * gate * sigmoid(1.702 * gate);
  }
  Row out = product(t, w2, y, kHidden);
  for (size_t h = 0; h < out.size(); ++h) out[h] += b2[h];
  return out;
}

json base_config(const char* type, const char* experts_key, const char* inner_key, size_t top_k) {
  return {{"model_type", type},          {"hidden_size", kHidden}, {experts_key, kExperts},
          {inner_key, kInner},           {"hidden_act", "silu"},   {"num_hidden_layers", 3},
          {"num_experts_per_tok", top_k}};
}

json nested(const char* type, json config, const char* key) {
  return {{"model_type", type}, {key, std::move(config)}};
}

std::vector<Definition> all_definitions() {
  std::vector<Definition> all;
  for (const auto part : {softmax_definitions, chosen_definitions, sigmoid_definitions,
                          hybrid_definitions, unusual_definitions, quantised_definitions})
    for (Definition& d : part()) all.push_back(std::move(d));
  return all;
}

Definition find_definition(const std::string& name) {
  for (Definition& d : all_definitions())
    if (d.name == name) return std::move(d);
  throw std::invalid_argument("no definition is called " + name);
}

}  // namespace switchyard::testing
