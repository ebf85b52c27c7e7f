// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/layer_loader.cc
#include "weights/layer_loader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/shape_text.h"
#include "weights/mxfp4_blocks.h"
#include "weights/stored_tensor.h"
#include "weights/weight_block.h"

namespace switchyard {
namespace {

// Values at `at`, `at` + step, ... of t.
void store(Tensor t, int64_t at, int64_t step, std::span<const float> values) {
  const auto count = static_cast<int64_t>(values.size());
  if (t.dtype == DType::F32)
    for (int64_t i = 0; i < count; ++i) t.as<float>()[at + i * step] = values[i];
  else
    for (int64_t i = 0; i < count; ++i) t.as<Bf16>()[at + i * step] = Bf16(values[i]);
}

// `count` values of src from `first` on -> dst from `at` on.
void store_run(Tensor dst, int64_t at, const StoredTensor& src, int64_t first, int64_t count,
               float factor) {
  std::array<float, 2048> numbers;  // as much as stays in the nearest cache
  for (int64_t done = 0; done < count;) {
    const auto run = std::span(numbers).first(std::min(numbers.size(), size_t(count - done)));
    src.read(run, first + done);
    if (factor != 1)
      for (float& v : run) v *= factor;
    store(dst, at + done, 1, run);
    done += static_cast<int64_t>(run.size());
  }
}

// A matrix of an expert in memory; of f8_e4m3 with the scales of its blocks.
struct ExpertMatrix {
  Tensor values;
  Tensor scales;
  ScaleBlock block;

  // Rows [first, first + num), which begin and end with blocks.
  ExpertMatrix rows(int64_t first, int64_t num) const {
    ExpertMatrix part = *this;
    part.values = values.rows(first, num);
    if (scales.present()) {
      const int64_t each = block.rows == ScaleBlock::kWhole ? num : block.rows;
      part.scales = scales.rows(first / each, ceil_div(num, each));
    }
    return part;
  }
};

// Expert e of matrices [E, N, K].
ExpertMatrix expert_at(Tensor values, Tensor scales, ScaleBlock block, int64_t e) {
  const auto one = [e](Tensor t) {
    const Tensor row = t.present() ? t.rows(e, 1) : t;
    return t.present() ? Tensor(row.data, row.dtype, {t.dim(1), t.dim(2)}, row.device) : t;
  };
  return {one(values), one(scales), block};
}
ExpertMatrix w1_of(const WeightBlock& b, int64_t e) {
  return expert_at(b.w1, b.w1_scales, b.format.w1, e);
}
ExpertMatrix w2_of(const WeightBlock& b, int64_t e) {
  return expert_at(b.w2, b.w2_scales, b.format.w2, e);
}

// A matrix inside a stored one: element (row, col) is at first + row * row_step + col * col_step.
struct Stride {
  int64_t first, row_step, col_step;
};

class Loader {
 public:
  Loader(const CheckpointFiles& files, const LayerTensors& tensors, Progress progress,
         int64_t total_bytes)
      : files_(files),
        tensors_(tensors),
        progress_(std::move(progress)),
        total_bytes_(total_bytes) {}

  const MoeConfig& config() const { return tensors_.config; }
  const TensorNames& names() const { return *tensors_.names; }
  float down_factor() const { return tensors_.family->down_factor; }

  std::string full(const std::string& name, int64_t expert) const {
    return tensors_.prefix + fill_template(name, tensors_.layer, expert);
  }
  // In any form.
  bool has(const std::string& name) const {
    if (name.empty()) return false;
    const std::string at = full(name, 0);
    return files_.has(at) || files_.has(at + kMxfp4Blocks);
  }
  std::string format_of(const std::string& name) const { return open(full(name, 0)).format(); }

  // Its number of dimensions; 0 when there is no such tensor.
  size_t rank_of(const std::string& name) const {
    const std::string at = full(name, 0);
    return !name.empty() && files_.has(at) ? files_.entry(at).shape.size() : 0;
  }
  // As the file has it, `key` being what layer.json calls it.
  const TensorEntry& entry(const std::string& name, const char* key) const {
    check_named(name, key);
    return files_.entry(full(name, 0));
  }
  // A stored tensor as numbers.
  StoredTensor stored(const std::string& name, const char* key, int64_t expert = 0) const {
    check_named(name, key);
    return open(full(name, expert));
  }
  // The same, of exactly this shape.
  StoredTensor stored(const std::string& name, const char* key, Shape shape,
                      int64_t expert = 0) const {
    StoredTensor t = stored(name, key, expert);
    const auto expected = extents(shape);
    SWITCHYARD_REQUIRE(std::ranges::equal(t.shape(), expected), BadFile, "checkpoint: tensor ",
                       full(name, expert), " has shape ", shape_text(t.shape()), ", need ",
                       shape_text(shape), ". Weights and config.json do not fit.");
    return t;
  }

  // dst (row-major) = factor * the matrix at `stride` in src. Without memory behind dst nothing is
  // read.
  void copy(Tensor dst, const StoredTensor& src, int64_t rows, int64_t cols, Stride stride,
            float factor = 1) {
    if (dst.data == nullptr) return;
    const bool as_it_is =
        src.holds(dst.dtype) && stride.col_step == 1 && stride.row_step == cols && factor == 1;
    if (as_it_is) {
      const auto bytes = static_cast<size_t>(rows * cols * dtype_bytes(dst.dtype));
      src.read_bytes({static_cast<std::byte*>(dst.data), bytes}, stride.first);
    } else if (stride.col_step == 1) {
      for (int64_t r = 0; r < rows; ++r)
        store_run(dst, r * cols, src, stride.first + r * stride.row_step, cols, factor);
    } else {
      copy_transposed(dst, src, rows, cols, stride, factor);
    }
    loaded(dst);
  }
  // dst = factor * rows of the matrix `matrix` of src from `first_row` on, which `stride` finds.
  void copy_expert(const ExpertMatrix& dst, const StoredTensor& src, const std::string& name,
                   int64_t matrix, int64_t first_row, Stride stride, float factor) {
    const int64_t rows = dst.values.dim(0), cols = dst.values.dim(1);
    if (dst.values.dtype != DType::F8E4m3) return copy(dst.values, src, rows, cols, stride, factor);
    if (src.is_mxfp4() && stride.col_step == 1)
      return encode_expert(dst, src, name, matrix, stride, factor);
    const auto block = src.f8_block();
    const bool fits = block && block->cols == dst.block.cols &&
                      (block->rows == ScaleBlock::kWhole || dst.block.rows == ScaleBlock::kWhole
                           ? block->rows >= rows
                           : block->rows % dst.block.rows == 0);
    SWITCHYARD_REQUIRE(fits, Unsupported, "checkpoint: tensor ", name, ": form=", src.format(),
                       ", others of the layer's experts have another. Load them as bf16.");
    copy(dst.values, src, rows, cols, stride);
    if (dst.scales.data == nullptr) return;
    const int64_t of_dst = dst.block.rows, of_src = block->rows;
    for (int64_t i = 0; i < dst.scales.dim(0); ++i) {
      const int64_t row = of_dst == ScaleBlock::kWhole ? first_row : first_row + i * of_dst;
      const std::span scales(dst.scales.as<float>() + i * dst.scales.dim(1),
                             static_cast<size_t>(dst.scales.dim(1)));
      src.read_block_scales(scales, matrix, of_src == ScaleBlock::kWhole ? 0 : row / of_src);
      for (float& scale : scales) scale *= factor;
    }
    loaded(dst.scales);
  }
  // A stored matrix of the shape of dst.
  void load_expert(const ExpertMatrix& dst, const std::string& name, const char* key,
                   int64_t expert, float factor = 1) {
    copy_expert(dst, stored(name, key, dst.values.shape, expert), full(name, expert), 0, 0,
                {0, dst.values.dim(1), 1}, factor);
  }
  // Counts what was written to dst.
  void loaded(Tensor dst) {
    done_bytes_ += dst.bytes();
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  // A stored tensor of this shape, or as much of it as dst holds.
  void load(Tensor dst, const std::string& name, const char* key, Shape shape, int64_t expert = 0,
            float factor = 1) {
    copy(dst, stored(name, key, shape, expert), 1, dst.count(), {0, dst.count(), 1}, factor);
  }

 private:
  // MXFP4 -> f8_e4m3 with the same numbers. Without memory behind dst that much is checked.
  void encode_expert(const ExpertMatrix& dst, const StoredTensor& src, const std::string& name,
                     int64_t matrix, Stride stride, float factor) {
    const int64_t cols = dst.values.dim(1);
    const bool several = src.shape().size() == 3;
    const Mxfp4Rows rows{.src = src,
                         .name = several ? cat(name, ", expert ", matrix) : name,
                         .first = stride.first / cols,
                         .step = stride.row_step / cols,
                         .num = dst.values.dim(0),
                         .cols = cols};
    if (dst.values.data == nullptr) return require_f8_blocks(rows, dst.block);
    const std::span scales(dst.scales.as<float>(), static_cast<size_t>(dst.scales.count()));
    read_f8_blocks({dst.values.as<F8E4m3>(), static_cast<size_t>(dst.values.count())}, scales, rows,
                   dst.block);
    for (float& scale : scales) scale *= factor;
    loaded(dst.values);
    loaded(dst.scales);
  }
  StoredTensor open(const std::string& name) const {
    return open_tensor(files_, tensors_.family->quantization, name);
  }
  void check_named(const std::string& name, const char* key) const {
    SWITCHYARD_REQUIRE(!name.empty(), BadFile, "checkpoint: layer ", tensors_.layer, ", tensors.",
                       key, "=nothing, the layer needs it. Name it in layer.json.");
  }
  // Stored rows become columns: runs that are read at once on one side, a cache line on the other.
  static void copy_transposed(Tensor dst, const StoredTensor& src, int64_t rows, int64_t cols,
                              Stride stride, float factor) {
    constexpr int64_t kRows = 1024, kCols = 32;
    std::vector<float> runs, line(kCols);
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t n = std::min(kRows, rows - r), run = (n - 1) * stride.row_step + 1;
      runs.resize(kCols * run);
      for (int64_t c = 0; c < cols; c += kCols) {
        const int64_t m = std::min(kCols, cols - c);
        const int64_t first = stride.first + r * stride.row_step + c * stride.col_step;
        for (int64_t j = 0; j < m; ++j)
          src.read(std::span(runs).subspan(j * run, run), first + j * stride.col_step);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t j = 0; j < m; ++j) line[j] = factor * runs[j * run + i * stride.row_step];
          store(dst, (r + i) * cols + c, 1, std::span(line).first(m));
        }
      }
    }
  }

  const CheckpointFiles& files_;
  const LayerTensors& tensors_;
  const Progress progress_;
  int64_t total_bytes_;
  int64_t done_bytes_ = 0;
};

// ---- experts

void load_separate_experts(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t i = c.intermediate;
  // Without a gate the one matrix is `up`; layer.json may still call it `gate`.
  const bool up_alone = !c.activation.gated() && !n.expert_up.empty();
  for (int64_t e = 0; e < b.w1.dim(0); ++e) {
    const int64_t id = first_expert + e;
    const ExpertMatrix w1 = w1_of(b, e);
    if (up_alone) {
      loader.load_expert(w1, n.expert_up, "expert_up", id);
    } else {
      loader.load_expert(w1.rows(0, i), n.expert_gate,
                         c.activation.gated() ? "expert_gate" : "expert_up", id);
      if (c.activation.gated()) loader.load_expert(w1.rows(i, i), n.expert_up, "expert_up", id);
    }
    loader.load_expert(w2_of(b, e), n.expert_down, "expert_down", id, loader.down_factor());
  }
}

// Rows of W1 in the order gate, up, from rows in halves or in turns.
Stride half_of(bool up, bool interleaved, int64_t first, int64_t rows, int64_t row_step,
               int64_t col_step) {
  if (interleaved) return {first + (up ? row_step : 0), 2 * row_step, col_step};
  return {first + (up ? rows * row_step : 0), row_step, col_step};
}

bool has_shape(const StoredTensor& t, Shape shape) {
  return std::ranges::equal(t.shape(), extents(shape));
}

// W1 of all experts in one tensor, W2 in another, and whether both are transposed.
struct FusedExperts {
  StoredTensor w1, w2;
  bool transposed;
};

FusedExperts fused_experts(const Loader& loader) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t e = c.num_experts, rows = c.w1_rows(), h = c.routed_hidden(), i = c.intermediate;
  FusedExperts f{loader.stored(n.fused_gate_up, "fused_gate_up"),
                 loader.stored(n.fused_down, "fused_down"), n.fused == Fused::Transposed};
  // transformers 5 keeps rows for zero experts behind the others; nothing reads them.
  const bool padded = f.w1.shape().size() == 3 && f.w1.shape()[0] == c.num_choices();
  const int64_t all = padded ? c.num_choices() : e;
  const Shape w1{all, rows, h}, w2{e, h, i}, w1_t{all, h, rows}, w2_t{e, i, h};
  const bool straight_fits = has_shape(f.w1, w1) && has_shape(f.w2, w2);
  const bool transposed_fits = has_shape(f.w1, w1_t) && has_shape(f.w2, w2_t);
  if (n.fused == Fused::Either) f.transposed = transposed_fits;
  const bool fits = f.transposed ? transposed_fits : straight_fits;
  SWITCHYARD_REQUIRE(
      fits, BadFile, "checkpoint: tensors ", loader.full(n.fused_gate_up, 0), " and ",
      loader.full(n.fused_down, 0), " have shapes ", shape_text(f.w1.shape()), " and ",
      shape_text(f.w2.shape()), ", need ", shape_text(f.transposed ? w1_t : w1), " and ",
      shape_text(f.transposed ? w2_t : w2),
      n.fused == Fused::Either ? cat(" or ", shape_text(w1_t), " and ", shape_text(w2_t))
                               : std::string(),
      ". Weights and config.json do not fit.");
  return f;
}

void load_fused_experts(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const int64_t rows = c.w1_rows(), h = c.routed_hidden(), i = c.intermediate;
  const FusedExperts f = fused_experts(loader);
  const bool t = f.transposed;
  const bool interleaved = loader.names().fused_interleaved && c.activation.gated();
  for (int64_t e = 0; e < b.w1.dim(0); ++e) {
    const int64_t id = first_expert + e;
    const ExpertMatrix w1 = w1_of(b, e);
    for (int64_t half = 0; half < rows / i; ++half) {
      const Stride stride =
          half_of(half == 1, interleaved, id * rows * h, i, t ? 1 : h, t ? rows : 1);
      loader.copy_expert(w1.rows(half * i, i), f.w1, loader.full(loader.names().fused_gate_up, 0),
                         id, half * i, stride, 1);
    }
    loader.copy_expert(w2_of(b, e), f.w2, loader.full(loader.names().fused_down, 0), id, 0,
                       {id * h * i, t ? 1 : i, t ? h : 1}, loader.down_factor());
  }
}

// Gate and up each in one tensor of all experts.
void load_stacked_experts(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t all = c.num_experts, i = c.intermediate, h = c.routed_hidden();
  const Shape w1_shape = n.flat_stacks ? Shape{all * i, h} : Shape{all, i, h};
  const bool t = n.flat_stacks;  // dbrx: W2 is transposed then
  const StoredTensor up = loader.stored(n.stacked_up, "stacked_up", w1_shape);
  const StoredTensor gate =
      c.activation.gated() ? loader.stored(n.stacked_gate, "stacked_gate", w1_shape) : up;
  const StoredTensor down =
      loader.stored(n.fused_down, "fused_down", t ? Shape{all * i, h} : Shape{all, h, i});
  for (int64_t e = 0; e < b.w1.dim(0); ++e) {
    const int64_t id = first_expert + e, first = id * i * h;
    const ExpertMatrix w1 = w1_of(b, e);
    const bool gated = c.activation.gated();
    loader.copy_expert(w1.rows(0, i), gate, loader.full(gated ? n.stacked_gate : n.stacked_up, 0),
                       id, 0, {first, h, 1}, 1);
    if (gated)
      loader.copy_expert(w1.rows(i, i), up, loader.full(n.stacked_up, 0), id, 0, {first, h, 1}, 1);
    loader.copy_expert(w2_of(b, e), down, loader.full(n.fused_down, 0), id, 0,
                       {first, t ? 1 : i, t ? h : 1}, loader.down_factor());
  }
}

void load_biases(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t rows = c.w1_rows(), i = c.intermediate, h = c.routed_hidden();
  const StoredTensor b1 =
      loader.stored(n.fused_gate_up_bias, "fused_gate_up_bias", {c.num_experts, rows});
  const StoredTensor b2 = loader.stored(n.fused_down_bias, "fused_down_bias", {c.num_experts, h});
  const bool interleaved = n.fused_interleaved && c.activation.gated();
  for (int64_t e = 0; e < b.b1.dim(0); ++e) {
    const int64_t id = first_expert + e;
    Tensor mine = b.b1.rows(e, 1);
    mine.shape = {rows};
    for (int64_t half = 0; half < rows / i; ++half)
      loader.copy(mine.rows(half * i, i), b1, i, 1,
                  half_of(half == 1, interleaved, id * rows, i, 1, 1));
    loader.copy(b.b2.rows(e, 1), b2, 1, h, {id * h, h, 1}, loader.down_factor());
  }
}

bool has_fused_experts(const Loader& loader) {
  return loader.has(loader.names().fused_gate_up);
}
bool has_stacked_experts(const Loader& loader) {
  return loader.has(loader.names().stacked_up);
}

// Rows [first, first + num) of every tensor that has one for each expert.
WeightBlock experts_in(WeightBlock b, int64_t first, int64_t num) {
  for (Tensor* t : {&b.w1, &b.w2, &b.b1, &b.b2, &b.w1_scales, &b.w2_scales})
    if (t->present()) *t = t->rows(first, num);
  return b;
}

// Places that no expert fills are zero.
void clear_experts(Loader& loader, const WeightBlock& b) {
  for (const Tensor& t : {b.w1, b.w2, b.b1, b.b2, b.w1_scales, b.w2_scales}) {
    if (t.count() == 0 || t.data == nullptr) continue;
    std::memset(t.data, 0, t.bytes());
    loader.loaded(t);
  }
}

// ---- experts that stay as they are stored

// The blocks of f8_e4m3 that a stored matrix has, or is given. Absent where it stays bf16.
std::optional<ScaleBlock> native_block(const StoredTensor& t) {
  return t.is_mxfp4() ? ScaleBlock{kQuantGroup, kQuantGroup} : t.f8_block();
}

// Blocks of a matrix whose halves, of `rows` rows each, come from stored ones: each lies in one block
// of those. Absent where one has none, or their columns are cut otherwise.
std::optional<ScaleBlock> common_block(std::initializer_list<const StoredTensor*> halves,
                                       int64_t rows) {
  std::optional<ScaleBlock> all;
  for (const StoredTensor* half : halves) {
    const auto block = native_block(*half);
    if (!block || (all && all->cols != block->cols)) return {};
    const int64_t own = block->rows == ScaleBlock::kWhole ? rows : block->rows;
    all = ScaleBlock{std::gcd(all ? all->rows : rows, own), block->cols};
  }
  return all;
}

// f8_e4m3 where all three matrices of the rank's first expert are, row by row, or are MXFP4; else bf16.
ExpertFormat native_format(const Loader& loader, int64_t first_expert) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t i = c.intermediate, h = c.routed_hidden();
  const int64_t first = std::min(first_expert, c.num_experts - 1);
  const auto format = [](const auto& w1, const StoredTensor& down) {
    const auto w2 = native_block(down);
    return w1 && w2 ? ExpertFormat{DType::F8E4m3, *w1, *w2} : ExpertFormat{};
  };
  if (has_fused_experts(loader)) {
    const FusedExperts f = fused_experts(loader);
    const bool in_turns = n.fused_interleaved && c.activation.gated();
    // Blocks of MXFP4 are made of an expert's own rows, wherever they stand.
    if (f.transposed || (in_turns && !f.w1.is_mxfp4())) return {};
    return format(common_block({&f.w1}, i), f.w2);
  }
  if (has_stacked_experts(loader) || n.expert_down.empty()) {
    if (n.flat_stacks) return {};
    const StoredTensor up = loader.stored(n.stacked_up, "stacked_up", {c.num_experts, i, h});
    const StoredTensor gate =
        c.activation.gated() ? loader.stored(n.stacked_gate, "stacked_gate", {c.num_experts, i, h})
                             : up;
    return format(common_block({&gate, &up}, i), loader.stored(n.fused_down, "fused_down"));
  }
  const bool up_alone = !c.activation.gated() && !n.expert_up.empty();
  const StoredTensor gate = up_alone ? loader.stored(n.expert_up, "expert_up", first)
                                     : loader.stored(n.expert_gate, "expert_gate", first);
  const StoredTensor up =
      c.activation.gated() ? loader.stored(n.expert_up, "expert_up", first) : gate;
  return format(common_block({&gate, &up}, i), loader.stored(n.expert_down, "expert_down", first));
}

void load_experts(Loader& loader, const WeightBlock& all, int64_t first_expert) {
  const int64_t places = all.w1.dim(0);
  const int64_t num = std::clamp<int64_t>(loader.config().num_experts - first_expert, 0, places);
  clear_experts(loader, experts_in(all, num, places - num));
  const WeightBlock b = experts_in(all, 0, num);
  if (has_fused_experts(loader))
    load_fused_experts(loader, b, first_expert);
  else if (has_stacked_experts(loader) || loader.names().expert_down.empty())
    load_stacked_experts(loader, b, first_expert);
  else
    load_separate_experts(loader, b, first_expert);
  if (loader.config().expert_bias) load_biases(loader, b, first_expert);
}

// ---- router

void load_router_weight(Loader& loader, Tensor dst) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t rows = c.router_rows(), h = c.hidden;
  const bool t = n.router_transposed;
  const StoredTensor weight =
      loader.stored(n.router, "router", t ? Shape{h, rows} : Shape{rows, h});
  if (n.router_scale.empty())
    return loader.copy(dst, weight, rows, h, {0, t ? 1 : h, t ? rows : 1});
  SWITCHYARD_REQUIRE(!t, BadFile, "checkpoint: layer.json, router_scale=", n.router_scale,
                     ", goes with a router [E, H]. Leave router_transposed away.");
  // Hidden states are scaled before the router: the same as its columns scaled, in fp32.
  const StoredTensor scale = loader.stored(n.router_scale, "router_scale", {h});
  if (dst.data == nullptr) return;
  std::vector<float> factors(h), row(h);
  scale.read(factors, 0);
  const double root = 1 / std::sqrt(static_cast<double>(h));
  for (int64_t r = 0; r < rows; ++r) {
    weight.read(row, r * h);
    for (size_t i = 0; i < row.size(); ++i)
      row[i] = static_cast<float>(double{row[i]} * (double{factors[i]} * root));
    store(dst, r * h, 1, row);
  }
  loader.loaded(dst);
}

void load_correction_bias(Loader& loader, Tensor dst) {
  const TensorNames& n = loader.names();
  const int64_t count = dst.dim(0);
  const bool has_rows = n.correction_rows > 1 || loader.rank_of(n.correction_bias) == 2;
  const Shape shape = has_rows ? Shape{n.correction_rows, count} : Shape{count};
  loader.load(dst, n.correction_bias, "correction_bias", shape);
}

void load_expert_scale(Loader& loader, Tensor dst) {
  const TensorNames& n = loader.names();
  const int64_t count = dst.dim(0);
  if (n.global_scale.empty()) return loader.load(dst, n.expert_scale, "expert_scale", {count});
  loader.copy(dst, loader.stored(n.global_scale, "global_scale", {1}), count, 1, {0, 0, 1});
}

// Ids of every token of the vocabulary, stored as i64.
void load_token_experts(Loader& loader, Tensor dst) {
  const MoeConfig& c = loader.config();
  const TensorEntry& entry = loader.entry(loader.names().token_experts, "token_experts");
  const std::vector<int64_t> expected{c.gate.vocabulary, c.top_k};
  SWITCHYARD_REQUIRE(entry.dtype == "I64" && entry.shape == expected, BadFile,
                     "checkpoint: tensor ", entry.name, ": is ", entry.dtype, " ",
                     shape_text(entry.shape), ", need I64 ", shape_text(expected),
                     ". Weights and config.json do not fit.");
  if (dst.data == nullptr) return;
  std::vector<int64_t> ids(dst.count());
  entry.read(std::as_writable_bytes(std::span(ids)));
  for (int64_t i = 0; i < dst.count(); ++i) {
    const int64_t id = ids[i];
    SWITCHYARD_REQUIRE(id >= 0 && id < c.num_experts, BadFile, "checkpoint: tensor ", entry.name,
                       ", token ", i / c.top_k, ": expert=", id, ", need 0 to ", c.num_experts - 1,
                       ".");
    dst.as<int32_t>()[i] = static_cast<int32_t>(id);
  }
  loader.loaded(dst);
}

void load_router(Loader& loader, const WeightBlock& b) {
  const MoeConfig& c = loader.config();
  load_router_weight(loader, b.router);
  if (c.router_bias)
    loader.load(b.router_bias, loader.names().router_bias, "router_bias", {c.router_rows()});
  if (c.gate.correction_bias) load_correction_bias(loader, b.correction_bias);
  if (c.gate.expert_scale) load_expert_scale(loader, b.expert_scale);
  if (c.gate.vocabulary > 0) load_token_experts(loader, b.token_experts);
}

// ---- shared experts and the path around the routed ones

// One expert, or S that the gate weighs, each a block of gate rows, then up rows.
void load_shared_w1(Loader& loader, Tensor dst) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t scored = c.shared.num_scored, blocks = std::max<int64_t>(1, scored), h = c.hidden;
  const int64_t halves = c.shared_activation().gated() ? 2 : 1, i = c.shared.intermediate / blocks;
  const auto shape = [&](int64_t rows) {
    return scored > 0 ? Shape{scored, rows, h} : Shape{rows, h};
  };
  const bool fused = loader.has(n.shared_gate_up);
  for (int64_t half = 0; half < halves; ++half) {
    const bool up = half == 1 || halves == 1;
    const StoredTensor src =
        fused ? loader.stored(n.shared_gate_up, "shared_gate_up", shape(halves * i))
        : up  ? loader.stored(n.shared_up, "shared_up", shape(i))
              : loader.stored(n.shared_gate, "shared_gate", shape(i));
    for (int64_t s = 0; s < blocks; ++s) {
      const int64_t first = s * (fused ? halves : 1) * i * h;
      const Stride stride =
          fused ? half_of(half == 1, n.shared_interleaved && halves == 2, first, i, h, 1)
                : Stride{first, h, 1};
      loader.copy(dst.rows((s * halves + half) * i, i), src, i, h, stride);
    }
  }
}

void load_shared(Loader& loader, const WeightBlock& b) {
  const MoeConfig& c = loader.config();
  const TensorNames& n = loader.names();
  const int64_t is = c.shared.intermediate, scored = c.shared.num_scored, h = c.hidden;
  if (is == 0) return;
  load_shared_w1(loader, b.shared_w1);
  const Shape w2 = scored > 0 ? Shape{scored, h, is / scored} : Shape{h, is};
  loader.load(b.shared_w2, n.shared_down, "shared_down", w2, 0, loader.down_factor());
  if (c.shared.sigmoid_gated)
    loader.load(b.shared_gate, n.shared_expert_gate, "shared_expert_gate", {1, h});
}

void load_path(Loader& loader, const WeightBlock& b) {
  const RoutedPathConfig& p = loader.config().path;
  const TensorNames& n = loader.names();
  const int64_t h = loader.config().hidden, l = loader.config().routed_hidden();
  if (p.input_norm) loader.load(b.input_norm, n.input_norm, "input_norm", {h});
  if (p.latent > 0) loader.load(b.down, n.path_down, "path_down", {l, h});
  if (p.output_norm) loader.load(b.output_norm, n.output_norm, "output_norm", {l});
  if (p.latent > 0) loader.load(b.up, n.path_up, "path_up", {h, l});
}

void load_all(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  load_experts(loader, b, first_expert);
  load_router(loader, b);
  load_shared(loader, b);
  load_path(loader, b);
}

}  // namespace

std::string stored_format(const CheckpointFiles& files, const LayerTensors& tensors) {
  const Loader loader(files, tensors, {}, 0);
  const TensorNames& n = *tensors.names;
  const bool together = has_fused_experts(loader) || has_stacked_experts(loader);
  return loader.format_of(together || n.expert_down.empty() ? n.fused_down : n.expert_down);
}

ExpertFormat native_format(const CheckpointFiles& files, const LayerTensors& tensors) {
  return native_format(Loader(files, tensors, {}, 0), 0);
}

LayerWeights load_layer(const CheckpointFiles& files, const LayerTensors& tensors, int num_ranks,
                        int rank, WeightForms forms, const Progress& progress) {
  SWITCHYARD_REQUIRE(rank >= 0 && rank < num_ranks, ShapeMismatch, "load_layer: rank=", rank,
                     ", need 0 to ", num_ranks - 1, ".");
  const MoeConfig& config = tensors.config;
  weight_bytes(config, num_ranks);  // checks config and ranks
  const int64_t first_expert = experts_of_rank(config.num_experts, num_ranks) * rank;
  check_unused_tensors(files, tensors);
  // Over no memory first: every tensor is there and fits before a byte is allocated.
  Arena sizes({});
  Loader checker(files, tensors, {}, 0);
  const ExpertFormat format =
      forms == WeightForms::Native ? native_format(checker, first_expert) : ExpertFormat{};
  load_all(checker, WeightBlock::take(sizes, config, num_ranks, format), first_expert);

  const int64_t total_bytes = weight_bytes(config, num_ranks, format);

  const auto block = WeightBlock::allocate(config, num_ranks, format);
  Loader loader(files, tensors, progress, total_bytes);
  load_all(loader, block, first_expert);
  files.check_unchanged();
  return block.view();
}

}  // namespace switchyard
