// src/weights/layer_loader.cc
#include "weights/layer_loader.h"

#include <cmath>
#include <cstring>

#include "base/require.h"
#include "weights/weight_block.h"

namespace switchyard {
namespace {

float f16_to_float(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return sign * (mantissa ? NAN : INFINITY);
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa | 0x400), exponent - 25);
}

float value_at(ConstTensor t, int64_t i) {
  switch (t.dtype) {
    case DType::Bf16: return static_cast<float>(t.as<Bf16>()[i]);
    case DType::F16: return f16_to_float(t.as<uint16_t>()[i]);
    default: return t.as<float>()[i];
  }
}

void store(Tensor t, int64_t i, float value) {
  if (t.dtype == DType::F32)
    t.as<float>()[i] = value;
  else
    t.as<Bf16>()[i] = Bf16(value);
}

// How a matrix stands in a stored one: element (row, col) at first + row * row_step + col *
// col_step.
struct Stride {
  int64_t first, row_step, col_step;
};

class Loader {
 public:
  Loader(const CheckpointFiles& files, std::string prefix, const FamilyLayers& family,
         int64_t layer, const Progress& progress, int64_t total_bytes)
      : files_(files),
        prefix_(std::move(prefix)),
        family_(family),
        layer_(layer),
        progress_(progress),
        total_bytes_(total_bytes) {}

  const MoeConfig& config() const { return family_.config; }
  const TensorNames& names() const { return family_.names; }

  bool has(const std::string& name, int64_t expert = 0) const {
    return !name.empty() && files_.has(full(name, expert));
  }

  // A stored tensor of exactly this shape, in a dtype that becomes bf16 or f32.
  ConstTensor stored(const std::string& name, Shape shape, int64_t expert = 0) const {
    SWITCHYARD_REQUIRE(!name.empty(), BadFile, "checkpoint: layer ", layer_,
                       ", a tensor the layer needs has no name. Name it in layer.json.");
    const std::string at = full(name, expert);
    const ConstTensor t = files_.tensor(at);
    SWITCHYARD_REQUIRE(t.shape == shape, BadFile, "checkpoint: tensor ", at, " has shape ",
                       shape_text(t.shape), ", need ", shape_text(shape),
                       ". Weights and config.json do not fit.");
    SWITCHYARD_REQUIRE(t.dtype == DType::Bf16 || t.dtype == DType::F16 || t.dtype == DType::F32,
                       Unsupported, "checkpoint: tensor ", at, ": dtype=", dtype_name(t.dtype),
                       ", load bf16, f16 or f32 weights.");
    return t;
  }

  // dst (row-major) = the matrix at `stride` in src.
  void copy(Tensor dst, ConstTensor src, int64_t rows, int64_t cols, Stride stride) {
    const bool as_it_is = src.dtype == dst.dtype && stride.col_step == 1 && stride.row_step == cols;
    if (as_it_is) {
      const auto bytes = dtype_bytes(src.dtype);
      std::memcpy(dst.data, src.as<std::byte>() + stride.first * bytes,
                  static_cast<size_t>(rows * cols * bytes));
    } else {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c)
          store(dst, r * cols + c,
                value_at(src, stride.first + r * stride.row_step + c * stride.col_step));
    }
    done_bytes_ += dst.bytes();
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  // A whole stored tensor.
  void load(Tensor dst, const std::string& name, Shape shape, int64_t expert = 0) {
    const ConstTensor src = stored(name, shape, expert);
    copy(dst, src, 1, src.count(), {0, src.count(), 1});
  }

 private:
  std::string full(const std::string& name, int64_t expert) const {
    return prefix_ + fill_template(name, layer_, expert);
  }

  const CheckpointFiles& files_;
  std::string prefix_;
  const FamilyLayers& family_;
  int64_t layer_;
  const Progress& progress_;
  int64_t total_bytes_;
  int64_t done_bytes_ = 0;
};

// One matrix [num_rows, H] after the other: gate rows, then up rows.
void load_gate_and_up(Loader& loader, Tensor w1, const std::string& gate, const std::string& up,
                      int64_t rows, int64_t expert) {
  const int64_t h = loader.config().hidden;
  w1.shape = {w1.count() / h, h};
  loader.load(w1.rows(0, rows), gate, {rows, h}, expert);
  if (loader.config().activation.gated()) loader.load(w1.rows(rows, rows), up, {rows, h}, expert);
}

void load_separate_experts(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  for (int64_t e = 0; e < b.w1.dim(0); ++e) {
    const int64_t id = first_expert + e;
    load_gate_and_up(loader, b.w1.rows(e, 1), loader.names().expert_gate, loader.names().expert_up,
                     c.intermediate, id);
    loader.load(b.w2.rows(e, 1), loader.names().expert_down, {c.hidden, c.intermediate}, id);
  }
}

// Rows of W1 in the order gate, up, from rows that stand in halves or alternate.
Stride half_of(bool up, bool interleaved, int64_t first, int64_t rows, int64_t row_step,
               int64_t col_step) {
  if (interleaved) return {first + (up ? row_step : 0), 2 * row_step, col_step};
  return {first + (up ? rows * row_step : 0), row_step, col_step};
}

void load_fused_experts(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t e_all = c.num_experts, rows = c.w1_rows(), h = c.hidden, i = c.intermediate;
  const bool t = n.fused_transposed;
  const ConstTensor w1 =
      loader.stored(n.fused_gate_up, t ? Shape{e_all, h, rows} : Shape{e_all, rows, h});
  const ConstTensor w2 = loader.stored(n.fused_down, t ? Shape{e_all, i, h} : Shape{e_all, h, i});
  const bool interleaved = n.fused_interleaved && c.activation.gated();
  for (int64_t e = 0; e < b.w1.dim(0); ++e) {
    const int64_t id = first_expert + e;
    Tensor mine = b.w1.rows(e, 1);
    mine.shape = {rows, h};
    for (const bool up : {false, true}) {
      if (up && !c.activation.gated()) break;
      const Stride stride = half_of(up, interleaved, id * rows * h, i, t ? 1 : h, t ? rows : 1);
      loader.copy(mine.rows(up ? i : 0, i), w1, i, h, stride);
    }
    loader.copy(b.w2.rows(e, 1), w2, h, i, {id * h * i, t ? 1 : i, t ? h : 1});
  }
}

void load_biases(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const int64_t rows = c.w1_rows(), i = c.intermediate;
  const ConstTensor b1 = loader.stored(loader.names().fused_gate_up_bias, {c.num_experts, rows});
  const ConstTensor b2 = loader.stored(loader.names().fused_down_bias, {c.num_experts, c.hidden});
  for (int64_t e = 0; e < b.b1.dim(0); ++e) {
    const int64_t id = first_expert + e;
    Tensor mine = b.b1.rows(e, 1);
    mine.shape = {rows};
    for (const bool up : {false, true}) {
      if (up && !c.activation.gated()) break;
      const Stride stride = half_of(up, loader.names().fused_interleaved, id * rows, i, 1, 1);
      loader.copy(mine.rows(up ? i : 0, i), b1, i, 1, stride);
    }
    loader.copy(b.b2.rows(e, 1), b2, 1, c.hidden, {id * c.hidden, c.hidden, 1});
  }
}

void load_router(Loader& loader, const WeightBlock& b) {
  const MoeConfig& c = loader.config();
  loader.load(b.router, loader.names().router, {c.num_experts, c.hidden});
  if (c.router_bias) loader.load(b.router_bias, loader.names().router_bias, {c.num_experts});
  if (c.gate.correction_bias)
    loader.load(b.correction_bias, loader.names().correction_bias, {c.num_experts});
}

void load_shared(Loader& loader, const WeightBlock& b) {
  const MoeConfig& c = loader.config();
  const int64_t is = c.shared.intermediate;
  if (is == 0) return;
  load_gate_and_up(loader, b.shared_w1, loader.names().shared_gate, loader.names().shared_up, is,
                   0);
  loader.load(b.shared_w2, loader.names().shared_down, {c.hidden, is});
  if (c.shared.sigmoid_gated)
    loader.load(b.shared_gate, loader.names().shared_expert_gate, {1, c.hidden});
}

}  // namespace

std::string fill_template(std::string name, int64_t layer, int64_t expert) {
  for (const auto& [key, value] : {std::pair{"{layer}", layer}, std::pair{"{expert}", expert}})
    for (size_t at; (at = name.find(key)) != std::string::npos;)
      name.replace(at, std::strlen(key), std::to_string(value));
  return name;
}

LayerWeights load_layer(const CheckpointFiles& files, const std::string& prefix,
                        const FamilyLayers& family, int64_t layer, int num_ranks, int rank,
                        const Progress& progress) {
  SWITCHYARD_REQUIRE(rank >= 0 && rank < num_ranks, ShapeMismatch, "load_layer: rank=", rank,
                     ", need 0 to ", num_ranks - 1, ".");
  const int64_t total_bytes = weight_bytes(family.config, num_ranks);  // checks config and ranks
  Loader loader(files, prefix, family, layer, progress, total_bytes);
  const int64_t first_expert = family.config.num_experts / num_ranks * rank;
  const bool fused = loader.has(family.names.fused_gate_up);
  // Before the allocation: a file without the layer's first expert is not worth one.
  if (!fused)
    loader.stored(family.names.expert_down, {family.config.hidden, family.config.intermediate},
                  first_expert);

  const auto block = WeightBlock::allocate(family.config, num_ranks);
  fused ? load_fused_experts(loader, block, first_expert)
        : load_separate_experts(loader, block, first_expert);
  if (family.config.expert_bias) load_biases(loader, block, first_expert);
  load_router(loader, block);
  load_shared(loader, block);
  return block.view();
}

}  // namespace switchyard
