// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/family_definitions.h -- MoE blocks as their model code is published: which tensors
// a checkpoint has, and what a row becomes, in float64 (the model code of transformers 5.24,
// modeling_<family>.py). Nothing of the library takes part in it but the bf16 number type.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "testing/buffer.h"

namespace switchyard::testing {

using nlohmann::json;
using Row = std::vector<double>;

// A tensor as the file has it, and the numbers it stands for.
struct Stored {
  Shape shape;
  std::string dtype;  // as safetensors spells it
  std::vector<std::byte> bytes;
  Row values;
};
using Tensors = std::map<std::string, Stored>;

inline constexpr int64_t kHidden = 128, kInner = 64, kExperts = 16, kTokens = 40;
inline constexpr int64_t kVocabulary = 96;
inline constexpr size_t kTopK = 4;

class Maker {
 public:
  explicit Maker(uint64_t seed) : rng_(seed) {}

  // Uniform in [middle - range, middle + range].
  void bf16(const std::string& name, Shape shape, double range = 0.2, double middle = 0);
  // As training leaves them: not representable in bf16.
  void f32(const std::string& name, Shape shape, double range, double middle = 0);
  // Distinct numbers below `bound` in each row.
  void i64_table(const std::string& name, Shape shape, int64_t bound);
  // Other values for every F32 tensor.
  void draw_f32_again();

  double uniform() { return std::uniform_real_distribution<double>(-1, 1)(rng_); }
  uint64_t bits() { return rng_(); }

  template <class T>
  static void append(Stored& t, T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    t.bytes.insert(t.bytes.end(), bytes, bytes + sizeof value);
  }

  Tensors tensors;

 private:
  struct F32 {
    std::string name;
    Shape shape;
    double range, middle;
  };
  void draw(const F32& tensor);

  std::mt19937_64 rng_;
  std::vector<F32> f32_;
};

// ---- a block

struct Routed {
  std::vector<size_t> experts;
  Row weights;
  Row shared_weights = {};  // of families whose router weighs shared experts, too
};

struct Definition {
  std::string name;  // "<model_type>[ <form>]"
  json config;
  int64_t layer = 1;
  std::string module = "model.layers.1.mlp";  // in transformers
  std::string stored = "bf16";                // Checkpoint::stored_format

  std::vector<std::function<void(Maker&)>> tensors;
  std::function<Row(const Tensors&, const Row& x)> logits;
  std::function<Routed(const Tensors&, const Row& logits, int64_t token)> route;
  std::function<Row(const Tensors&, size_t expert, const Row& x)> expert;  // unweighted
  std::function<Row(const Tensors&, const Row& x, const Routed&)> shared;  // absent: none
  // Around the routed experts alone: latent projections and norms. Absent: nothing.
  std::function<Row(const Tensors&, const Row&)> before, after;
  bool weight_on_input = false;
  double factor = 1;  // of the whole output

  friend void PrintTo(const Definition& d, std::ostream* out);
};

// `x` is row t of the input, `token` its id.
Row expected_row(const Definition& d, const Tensors& tensors, const Row& x, int64_t token);

// Random weights; rounding any F32 tensor of the router to bf16 sends a token to another expert.
Tensors make_tensors(const Definition& d);
// The input that goes with them, bf16 [kTokens, kHidden], the tokens' ids, and the block's output.
const Buffer<Bf16>& definition_input();
const Buffer<int64_t>& definition_tokens();
Row definition_row(int64_t t);
Buffer<double> expected_output(const Definition& d, const Tensors& tensors);

void write_checkpoint(const std::filesystem::path& folder, const Definition& d,
                      const Tensors& tensors);

// ---- float64 pieces of model code

double silu(double x);
double sigmoid(double x);
Row softmax(Row x);
// The k largest, in order; of equal ones the first.
std::vector<size_t> topk(const Row& x, size_t k);
Row rms_normalized(Row x, double epsilon);
Row times(Row x, const Row& weight);
Row plus(Row x, const Row& more);
Row each(Row x, double (*f)(double));

Routed gathered(const Row& scores, const std::vector<size_t>& experts);
Routed normalized(Routed r, double epsilon = 0, double floor = 0);
Routed scaled(Routed r, double factor);
// Scores of experts outside the best groups become `outside`.
Row inside_groups(const Row& scores, size_t groups, size_t kept, size_t best_of_group,
                  double outside);

// What stands between the two matrix products: (gate, up) -> number.
using Act = std::function<double(double gate, double up)>;
double silu_gated(double gate, double up);

// ---- how matrices are stored

// A matrix inside a tensor: element (o, i) stands at first + o * row_step + i * col_step.
struct View {
  std::string tensor;
  int64_t first = 0, row_step = kHidden, col_step = 1;
};
Row product(const Tensors& t, const View& w, const Row& x, int64_t rows);

struct Ffn {
  View gate, up, down;  // no gate.tensor: without a gate
  int64_t inner = kInner;
};
Row ffn(const Tensors& t, const Ffn& f, const Act& act, const Row& x);

struct Form {
  std::function<void(Maker&)> make;
  std::function<Ffn(int64_t expert)> expert;
};
struct Size {
  int64_t inner = kInner, width = kHidden, number = kExperts;
};
using Names = std::array<const char*, 3>;  // gate, up, down
inline constexpr Names kProj = {"gate_proj", "up_proj", "down_proj"};
inline constexpr Names kW132 = {"w1", "w3", "w2"};

// <at>.<name>.weight, of one expert.
Form one(const std::string& at, int64_t inner, Names names = kProj);
// <gate_up> [2I, H] and <down> [H, I], whole tensor names.
Form one_fused(const std::string& gate_up, const std::string& down, int64_t inner);
// <at>.<e>.<name>.weight
Form separate(const std::string& at, Names names = kProj, Size size = {}, int64_t first = 0);
// <gate_up> [E, 2I, H] and <down> [E, H, I]
Form fused(const std::string& gate_up, const std::string& down, Size size = {});
Form fused(const std::string& at, Size size = {});  // <at>.gate_up_proj, <at>.down_proj
// [E, H, 2I] and [E, I, H]
Form transposed(const std::string& at, Size size = {});
// Without a gate: <at>.<e>.{up,down}_proj.weight, or <at>.{up,down}_proj [E, ., .]
Form ungated(const std::string& at, Size size = {});
Form ungated_fused(const std::string& at, Size size = {});
Form ungated_one(const std::string& at, int64_t inner);

// ---- building definitions

void tensor_bf16(Definition& d, const std::string& name, Shape shape, double range = 0.2,
                 double middle = 0);
void tensor_f32(Definition& d, const std::string& name, Shape shape, double range,
                double middle = 0);
struct RouterOptions {
  int64_t rows = kExperts;
  double range = 0.2;
  bool f32 = false;
};
// Adds the tensor [rows, H] and reads logits from it.
void router(Definition& d, const std::string& name, const RouterOptions& options = {});
void routed_experts(Definition& d, const Form& form, const Act& act = silu_gated);
void shared_expert(Definition& d, const Form& form, const Act& act = silu_gated);
void shared_mlp(Definition& d, const std::string& at, int64_t inner, const Act& act = silu_gated);

using Route = std::function<Routed(const Tensors&, const Row& logits, int64_t token)>;
// Softmax over all, the K largest.
Route softmax_top(bool normalize, size_t k = kTopK);
// The K largest logits, softmax over them.
Route top_softmax();
struct SigmoidOptions {
  size_t k = kTopK, groups = 1, kept = 1;
  bool normalize = true;
  double epsilon = 1e-20;
  double factor = 1;
  double softcap = 0;
};
// DeepSeek-V3's gate and its many children: a bias for the choice, groups by their two best.
Route biased_sigmoid(const std::string& bias, const SigmoidOptions& options = {});

// gpt-oss beside its matrices: the router, its softmax over the chosen, all biases; and an expert
// of rows that alternate between gate and up.
void gpt_oss_biases(Definition& d, const std::string& at);
Row gpt_oss_expert(const Tensors& t, const std::string& at, const View& w1, const View& w2,
                   size_t expert, const Row& x);

json base_config(const char* type, const char* experts_key = "num_experts",
                 const char* inner_key = "moe_intermediate_size", size_t top_k = kTopK);
// A text model inside another: {"model_type": type, "text_config": config}.
json nested(const char* type, json config, const char* key = "text_config");

// ---- the definitions, by scheme

std::vector<Definition> softmax_definitions();  // softmax over all experts
std::vector<Definition> chosen_definitions();   // scores of the chosen logits alone
std::vector<Definition> sigmoid_definitions();  // sigmoid and a correction bias
std::vector<Definition> hybrid_definitions();   // the same with latents, limits, other names
std::vector<Definition> unusual_definitions();  // schemes of one family
std::vector<Definition> quantised_definitions();
std::vector<Definition> all_definitions();
Definition find_definition(const std::string& name);

}  // namespace switchyard::testing
