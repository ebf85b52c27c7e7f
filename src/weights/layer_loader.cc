// src/weights/layer_loader.cc
#include "weights/layer_loader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/shape_text.h"
#include "weights/tensor_source.h"
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
void store_run(Tensor dst, int64_t at, const StoredTensor& src, int64_t first, int64_t count) {
  std::array<float, 2048> numbers;  // as much as stays in the nearest cache
  for (int64_t done = 0; done < count;) {
    const auto run = std::span(numbers).first(std::min(numbers.size(), size_t(count - done)));
    src.read(run, first + done);
    store(dst, at + done, 1, run);
    done += static_cast<int64_t>(run.size());
  }
}

// How a matrix stands in a stored one: element (row, col) at first + row * row_step + col *
// col_step.
struct Stride {
  int64_t first, row_step, col_step;
};

class Loader {
 public:
  Loader(const CheckpointFiles& files, std::string prefix, const FamilyLayers& family,
         int64_t layer, Progress progress, int64_t total_bytes)
      : tensors_(files, family.quantization),
        prefix_(std::move(prefix)),
        family_(family),
        layer_(layer),
        progress_(std::move(progress)),
        total_bytes_(total_bytes) {}

  const MoeConfig& config() const { return family_.config; }
  const TensorNames& names() const { return family_.names; }

  bool has(const std::string& name) const { return !name.empty() && tensors_.has(full(name, 0)); }
  bool has_mxfp4(const std::string& name) const {
    return !name.empty() && tensors_.has_mxfp4(full(name, 0));
  }
  std::string format_of(const std::string& name) const {
    return tensors_.open(full(name, 0)).format();
  }
  size_t rank_of(const std::string& name) const {
    return name.empty() ? 0 : tensors_.rank_of(full(name, 0));
  }

  // A stored tensor of exactly this shape, as numbers.
  StoredTensor stored(const std::string& name, Shape shape, int64_t expert = 0) const {
    SWITCHYARD_REQUIRE(!name.empty(), BadFile, "checkpoint: layer ", layer_,
                       ", a tensor the layer needs has no name. Name it in layer.json.");
    const std::string at = full(name, expert);
    StoredTensor t = tensors_.open(at);
    const auto expected = extents(shape);
    SWITCHYARD_REQUIRE(std::ranges::equal(t.shape(), expected), BadFile, "checkpoint: tensor ", at,
                       " has shape ", shape_text(t.shape()), ", need ", shape_text(shape),
                       ". Weights and config.json do not fit.");
    return t;
  }

  // dst (row-major) = the matrix at `stride` in src. Without memory behind dst nothing is read.
  void copy(Tensor dst, const StoredTensor& src, int64_t rows, int64_t cols, Stride stride) {
    if (dst.data == nullptr) return;
    const bool as_it_is = src.holds(dst.dtype) && stride.col_step == 1 && stride.row_step == cols;
    if (as_it_is) {
      const auto bytes = dtype_bytes(dst.dtype);
      std::memcpy(dst.data, src.bytes() + stride.first * bytes,
                  static_cast<size_t>(rows * cols * bytes));
    } else if (stride.col_step == 1) {
      for (int64_t r = 0; r < rows; ++r)
        store_run(dst, r * cols, src, stride.first + r * stride.row_step, cols);
    } else {
      copy_transposed(dst, src, rows, cols, stride);
    }
    done_bytes_ += dst.bytes();
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  // A whole stored tensor.
  void load(Tensor dst, const std::string& name, Shape shape, int64_t expert = 0) {
    copy(dst, stored(name, shape, expert), 1, dst.count(), {0, dst.count(), 1});
  }

 private:
  // Stored rows become columns. 128 elements of each at a time: what they fall on stays in cache.
  static void copy_transposed(Tensor dst, const StoredTensor& src, int64_t rows, int64_t cols,
                              Stride stride) {
    constexpr int64_t kRows = 128;
    std::vector<float> run, column;
    for (int64_t r = 0; r < rows; r += kRows) {
      const int64_t n = std::min(kRows, rows - r);
      run.resize(static_cast<size_t>((n - 1) * stride.row_step + 1));
      column.resize(static_cast<size_t>(n));
      for (int64_t c = 0; c < cols; ++c) {
        src.read(run, stride.first + r * stride.row_step + c * stride.col_step);
        for (size_t i = 0; i < column.size(); ++i)
          column[i] = run[i * static_cast<size_t>(stride.row_step)];
        store(dst, r * cols + c, cols, column);
      }
    }
  }
  std::string full(const std::string& name, int64_t expert) const {
    return prefix_ + fill_template(name, layer_, expert);
  }

  const TensorSource tensors_;
  std::string prefix_;
  const FamilyLayers& family_;
  int64_t layer_;
  const Progress progress_;
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
  const bool t = n.fused_transposed && !loader.has_mxfp4(n.fused_gate_up);  // blocks run along K
  const StoredTensor w1 =
      loader.stored(n.fused_gate_up, t ? Shape{e_all, h, rows} : Shape{e_all, rows, h});
  const StoredTensor w2 = loader.stored(n.fused_down, t ? Shape{e_all, i, h} : Shape{e_all, h, i});
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
  const StoredTensor b1 = loader.stored(loader.names().fused_gate_up_bias, {c.num_experts, rows});
  const StoredTensor b2 = loader.stored(loader.names().fused_down_bias, {c.num_experts, c.hidden});
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
  if (!c.gate.correction_bias) return;
  const std::string& bias = loader.names().correction_bias;
  const bool is_row = loader.rank_of(bias) == 2;
  loader.load(b.correction_bias, bias, is_row ? Shape{1, c.num_experts} : Shape{c.num_experts});
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

bool has_fused_experts(const Loader& loader) {
  const std::string& fused = loader.names().fused_gate_up;
  return loader.has(fused) || loader.has_mxfp4(fused);
}

void load_all(Loader& loader, const WeightBlock& b, int64_t first_expert) {
  has_fused_experts(loader) ? load_fused_experts(loader, b, first_expert)
                            : load_separate_experts(loader, b, first_expert);
  if (loader.config().expert_bias) load_biases(loader, b, first_expert);
  load_router(loader, b);
  load_shared(loader, b);
}

}  // namespace

std::string fill_template(std::string name, int64_t layer, int64_t expert) {
  for (const auto& [key, value] : {std::pair{"{layer}", layer}, std::pair{"{expert}", expert}})
    for (size_t at = 0; (at = name.find(key, at)) != std::string::npos;)
      name.replace(at, std::strlen(key), std::to_string(value));
  return name;
}

std::string stored_format(const CheckpointFiles& files, const std::string& prefix,
                          const FamilyLayers& family, int64_t layer) {
  const Loader loader(files, prefix, family, layer, {}, 0);
  return loader.format_of(has_fused_experts(loader) ? family.names.fused_down
                                                    : family.names.expert_down);
}

LayerWeights load_layer(const CheckpointFiles& files, const std::string& prefix,
                        const FamilyLayers& family, int64_t layer, int num_ranks, int rank,
                        const Progress& progress) {
  SWITCHYARD_REQUIRE(rank >= 0 && rank < num_ranks, ShapeMismatch, "load_layer: rank=", rank,
                     ", need 0 to ", num_ranks - 1, ".");
  const int64_t total_bytes = weight_bytes(family.config, num_ranks);  // checks config and ranks
  const int64_t first_expert = family.config.num_experts / num_ranks * rank;
  // Over no memory first: every tensor is there and fits before a byte is allocated.
  Arena sizes({});
  Loader checker(files, prefix, family, layer, {}, 0);
  load_all(checker, WeightBlock::take(sizes, family.config, num_ranks), first_expert);

  const auto block = WeightBlock::allocate(family.config, num_ranks);
  Loader loader(files, prefix, family, layer, progress, total_bytes);
  load_all(loader, block, first_expert);
  return block.view();
}

}  // namespace switchyard
