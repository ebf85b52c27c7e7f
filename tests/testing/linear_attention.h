// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/linear_attention.h -- steps of linear attention with all their tensors, and what
// they should leave behind in float64. `Buf` is Buffer (CPU) or CudaBuffer (GPU).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "switchyard/linear_attention.h"
#include "testing/buffer.h"

namespace switchyard::testing {

template <class T>
const Buffer<T>& on_host(Buffer<T>& buffer) {
  return buffer;
}
template <class Device>
const auto& on_host(Device& buffer) {
  return buffer.host();
}

template <class T>
double number(T value) {
  return static_cast<double>(static_cast<float>(value));
}

// Uniform values; rounded to T.
template <class T>
Buffer<T> random_numbers(Shape shape, uint64_t seed, float low, float high) {
  Buffer<T> buffer(shape);
  std::mt19937_64 rng(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  for (int64_t i = 0; i < buffer.count(); ++i) buffer[i] = T(uniform(rng));
  return buffer;
}

// ---- where states stand

struct PagedBatch {
  std::vector<int32_t> lengths;
  int64_t num_slots = 4, row_stride = 4, block_tokens = 16, first_block = 1;
  int64_t spare_blocks = 3;  // blocks that no sequence owns
  // Not 0: only slots that a step of so many tokens needs have a block; big pools stay small, and
  // every other slot is a trap.
  int64_t sparse_tokens = 0;
  // Ids of entry (sequence, slot), in place of a block of its own.
  struct Planted {
    int64_t sequence, slot;
    int32_t id;
  };
  std::vector<Planted> planted;

  int64_t batch() const { return static_cast<int64_t>(lengths.size()); }
  int64_t blocks_each() const { return sparse_tokens > 0 ? sparse_tokens + 1 : num_slots; }
  int64_t num_blocks() const { return 1 + batch() * blocks_each() + spare_blocks; }
  int64_t max_tokens() const { return num_slots * block_tokens; }
};

// Entries past num_slots, between rows and after the last: ids that no pool has.
constexpr int32_t kHugeBlock = 1 << 22;

// [batch * row_stride + row_stride]: the table, and a row of huge ids after it.
inline Buffer<int32_t> block_table(const PagedBatch& p, uint64_t seed) {
  Buffer<int32_t> table({(p.batch() + 1) * p.row_stride});
  std::fill_n(table.data(), table.count(), kHugeBlock);
  std::vector<int32_t> ids(static_cast<size_t>(p.batch() * p.blocks_each()));
  std::iota(ids.begin(), ids.end(), 1);
  std::shuffle(ids.begin(), ids.end(), std::mt19937_64(seed));
  for (int64_t b = 0; b < p.batch(); ++b) {
    const int64_t length = p.lengths[static_cast<size_t>(b)];
    int64_t next = b * p.blocks_each();
    for (int64_t s = 0; s < p.num_slots; ++s) {
      const bool needed = p.sparse_tokens == 0 || s == (length - 2) / p.block_tokens ||
                          (s >= (length - 1) / p.block_tokens &&
                           s < (length - 1) / p.block_tokens + p.sparse_tokens);
      if (needed) table[b * p.row_stride + s] = ids[static_cast<size_t>(next++)];
    }
  }
  for (const auto& plant : p.planted) table[plant.sequence * p.row_stride + plant.slot] = plant.id;
  return table;
}

// What the requirement says about one sequence, in its own words.
struct ExpectedStep {
  bool active = false, refused = false;
  std::optional<int64_t> read;
  std::vector<std::optional<int64_t>> write;
  int32_t status = 0;

  ExpectedStep(const PagedBatch& p, const Buffer<int32_t>& table, int64_t b, int64_t num_tokens)
      : write(static_cast<size_t>(num_tokens)) {
    const int64_t length = p.lengths[static_cast<size_t>(b)], max = p.max_tokens();
    active = length >= 1;
    if (!active) return;
    const auto valid = [&](int64_t id) { return id >= p.first_block && id < p.num_blocks(); };
    if (length >= 2) {
      if (length >= max + 2) {
        status |= 1;
      } else if (const int64_t id = table[b * p.row_stride + (length - 2) / p.block_tokens];
                 valid(id)) {
        read = id;
      } else {
        status |= 2;
      }
      refused = !read;
    }
    for (int64_t i = 0; i < num_tokens; ++i) {
      if (length >= max - i * p.block_tokens + 1) {
        status |= 4;
        continue;
      }
      const int64_t id = table[b * p.row_stride + (length - 1) / p.block_tokens + i];
      if (!valid(id))
        status |= 8;
      else if (!refused)
        write[static_cast<size_t>(i)] = id;
    }
  }
};

template <template <class> class Buf>
struct PagedMap {
  PagedMap(const PagedBatch& p, uint64_t seed)
      : batch(p), table(block_table(p, seed)), device_table(table), lengths(length_buffer(p)) {}

  static Buffer<int32_t> length_buffer(const PagedBatch& p) {
    Buffer<int32_t> all({p.batch()});
    std::copy(p.lengths.begin(), p.lengths.end(), all.data());
    return all;
  }
  StateMap map() {
    Tensor ids = device_table.view();
    ids.shape = {batch.batch(), batch.num_slots};
    return {.sequence_lengths = lengths.view(),
            .block_map = ids,
            .num_slots = batch.num_slots,
            .row_stride = batch.row_stride,
            .block_tokens = batch.block_tokens,
            .first_block = batch.first_block};
  }

  PagedBatch batch;
  Buffer<int32_t> table;
  Buf<int32_t> device_table;
  Buf<int32_t> lengths;
};

inline void expect_status(const std::vector<int32_t>& words, const std::vector<int32_t>& need) {
  for (size_t b = 0; b < words.size(); ++b)
    EXPECT_EQ(words[b], b < need.size() ? need[b] : 0) << "status of sequence " << b;
}

// ---- convolution

struct ConvProblem {
  PagedBatch paged;
  int64_t dim = 64, width = 4, num_tokens = 1;
  bool bias = true, flat = false;  // flat: x is [B, D]
  ConvActivation activation = ConvActivation::Silu;
  int64_t block_gap = 0;  // elements between blocks, a multiple of 8
  uint64_t seed = 1;
};

template <class X, class S, template <class> class Buf>
class ConvStep {
 public:
  explicit ConvStep(const ConvProblem& problem)
      : p_(problem),
        map_(p_.paged, p_.seed + 1),
        host_x_(random_numbers<X>({batch(), p_.dim, p_.num_tokens}, p_.seed + 2, -2, 2)),
        host_weight_(random_numbers<float>({p_.dim, p_.width}, p_.seed + 3, -1, 1)),
        host_bias_(random_numbers<float>({p_.dim}, p_.seed + 4, -1, 1)),
        host_pool_(random_numbers<S>({pool_count()}, p_.seed + 5, -2, 2)),
        x_(host_x_),
        weight_(host_weight_),
        bias_(host_bias_),
        pool_(host_pool_),
        output_(Shape{batch(), p_.dim, p_.num_tokens}) {}

  ConvDecode args() {
    Tensor x = x_.view(), output = output_.view(), pool = pool_.view();
    if (p_.flat) x.shape = output.shape = {batch(), p_.dim};
    pool.shape = {p_.paged.num_blocks(), p_.dim, depth()};
    ConvDecode step;
    step.output = output, step.x = x, step.weight = weight_.view();
    step.state = StridedTensor(pool, {stride(), depth(), 1, 0});
    if (p_.bias) step.bias = bias_.view();
    step.activation = p_.activation;
    step.map = map_.map();
    return step;
  }

  // Compares outputs, the whole pool and the status words with float64.
  void expect_result(const std::vector<int32_t>& status) {
    Buffer<S> pool = host_pool_;
    const Buffer<X>& output = on_host(output_);
    std::vector<int32_t> words;
    int64_t num_wrong = 0;
    for (int64_t b = 0; b < batch(); ++b) {
      const ExpectedStep step(p_.paged, map_.table, b, p_.num_tokens);
      words.push_back(step.status);
      for (int64_t c = 0; c < p_.dim; ++c) expect_channel(step, b, c, output, pool, num_wrong);
    }
    EXPECT_EQ(num_wrong, 0) << "outputs that are wrong";
    expect_status(status, words);
    expect_pool(pool);
    EXPECT_TRUE(output.guards_intact());
    EXPECT_TRUE(same_bits(on_host(x_), host_x_)) << "x was written";
  }

  const Buffer<X>& output() { return on_host(output_); }
  const Buffer<S>& pool() { return on_host(pool_); }
  PagedMap<Buf>& map() { return map_; }
  int64_t batch() const { return p_.paged.batch(); }

 private:
  int64_t depth() const { return p_.width - 1; }
  int64_t stride() const { return p_.dim * depth() + p_.block_gap; }
  int64_t pool_count() const { return p_.paged.num_blocks() * stride(); }

  void expect_channel(const ExpectedStep& step, int64_t b, int64_t c, const Buffer<X>& got,
                      Buffer<S>& pool, int64_t& num_wrong) {
    const int64_t row = (b * p_.dim + c) * p_.num_tokens;
    std::vector<double> u(static_cast<size_t>(depth()), 0.0);
    for (int64_t j = 0; j < depth() && step.read; ++j)
      u[static_cast<size_t>(j)] = number(host_pool_[*step.read * stride() + c * depth() + j]);
    for (int64_t t = 0; t < p_.num_tokens; ++t)
      u.push_back(number(S(static_cast<float>(host_x_[row + t]))));
    for (int64_t t = 0; t < p_.num_tokens; ++t) {
      const double value = number(got[row + t]);
      if (!step.active || step.refused) {
        num_wrong += step.refused ? !std::isnan(value) : value != 0;
        continue;
      }
      double sum = p_.bias ? double{host_bias_[c]} : 0, size = std::fabs(sum);
      for (int64_t j = 0; j < p_.width; ++j) {
        const double term = double{host_weight_[c * p_.width + j]} * u[static_cast<size_t>(t + j)];
        sum += term, size += std::fabs(term);
      }
      const double y = p_.activation == ConvActivation::Silu ? sum / (1 + std::exp(-sum)) : sum;
      // One rounding to X, and fp32 sums with a fast exponential.
      const double tolerance = (sizeof(X) == 2 ? 0x1p-8 : 0x1p-20) * std::fabs(y) + 0x1p-20 * size;
      if (!(std::fabs(value - y) <= tolerance) && num_wrong++ == 0)
        ADD_FAILURE() << "sequence " << b << " channel " << c << " token " << t << ": " << value
                      << ", need " << y << " within " << tolerance;
    }
    for (int64_t i = 0; i < p_.num_tokens; ++i)
      for (int64_t j = 0; j < depth() && step.write[static_cast<size_t>(i)]; ++j)
        pool[*step.write[static_cast<size_t>(i)] * stride() + c * depth() + j] =
            S(static_cast<float>(u[static_cast<size_t>(i + 1 + j)]));
  }

  void expect_pool(const Buffer<S>& need) {
    const Buffer<S>& got = on_host(pool_);
    int64_t wrong = 0, first = -1;
    for (int64_t i = 0; i < need.count(); ++i)
      if (std::memcmp(&need[i], &got[i], sizeof(S)) != 0 && wrong++ == 0) first = i;
    EXPECT_TRUE(got.guards_intact());
    EXPECT_EQ(wrong, 0) << "elements of the pool, the first in block " << first / stride() << " at "
                        << first % stride();
  }

  ConvProblem p_;
  PagedMap<Buf> map_;
  Buffer<X> host_x_;
  Buffer<float> host_weight_, host_bias_;
  Buffer<S> host_pool_;
  Buf<X> x_;
  Buf<float> weight_, bias_;
  Buf<S> pool_;
  Buf<X> output_;
};

template <class X, class S, template <class> class Buf>
void expect_conv(LinearAttention& attention, const ConvProblem& problem) {
  SCOPED_TRACE(::testing::Message()
               << "B " << problem.paged.batch() << " D " << problem.dim << " w " << problem.width
               << " n " << problem.num_tokens << " seed " << problem.seed);
  ConvStep<X, S, Buf> step(problem);
  attention.conv_decode(step.args());
  step.expect_result(attention.wait_status());
}

// ---- gated delta rule

struct DeltaProblem {
  PagedBatch paged;
  int64_t key_heads = 2, value_heads = 4, key_dim = 32, value_dim = 32, num_tokens = 1;
  bool l2_normalize = true, beta_per_value = false;
  std::optional<float> scale;
  int64_t block_gap = 0;  // floats between blocks, a multiple of 4
  int64_t row_gap = 0;    // elements after each token's q, k and v
  uint64_t seed = 1;
};

template <class X, template <class> class Buf>
class DeltaStep {
 public:
  explicit DeltaStep(const DeltaProblem& problem)
      : p_(problem),
        map_(p_.paged, p_.seed + 1),
        host_q_(tokens_of(p_.key_heads * p_.key_dim, 2)),
        host_k_(tokens_of(p_.key_heads * p_.key_dim, 3)),
        host_v_(tokens_of(p_.value_heads * p_.value_dim, 4)),
        host_g_(random_numbers<float>({rows(), p_.value_heads}, p_.seed + 5, -1, 0)),
        host_beta_(random_numbers<X>({rows(), p_.value_heads, beta_width()}, p_.seed + 6, 0, 1)),
        host_pool_(random_numbers<float>({pool_count()}, p_.seed + 7, -1, 1)),
        q_(host_q_),
        k_(host_k_),
        v_(host_v_),
        g_(host_g_),
        beta_(host_beta_),
        pool_(host_pool_),
        output_(Shape{batch(), p_.num_tokens, p_.value_heads, p_.value_dim}) {}

  DeltaRuleDecode args() {
    DeltaRuleDecode step;
    step.output = output_.view();
    step.q = heads(q_.view(), p_.key_heads, p_.key_dim);
    step.k = heads(k_.view(), p_.key_heads, p_.key_dim);
    step.v = heads(v_.view(), p_.value_heads, p_.value_dim);
    Tensor g = g_.view(), beta = beta_.view(), pool = pool_.view();
    g.shape = {batch(), p_.num_tokens, p_.value_heads};
    beta.shape = g.shape;
    if (p_.beta_per_value) beta.shape = step.output.shape;
    step.g = g, step.beta = beta;
    pool.shape = {p_.paged.num_blocks(), p_.value_heads, p_.value_dim, p_.key_dim};
    step.state = StridedTensor(pool, {stride(), p_.value_dim * p_.key_dim, p_.key_dim, 1});
    step.l2_normalize = p_.l2_normalize;
    step.scale = p_.scale;
    step.map = map_.map();
    return step;
  }

  // Relative L2 errors of outputs and of written states against float64; everything else of the
  // pool bit by bit.
  void expect_result(const std::vector<int32_t>& status) {
    const Buffer<float>& got = on_host(pool_);
    const Buffer<X>& output = on_host(output_);
    std::vector<int32_t> words;
    std::vector<bool> written(static_cast<size_t>(pool_count()));
    Error state_error, output_error;
    int64_t num_wrong = 0;
    for (int64_t b = 0; b < batch(); ++b) {
      const ExpectedStep step(p_.paged, map_.table, b, p_.num_tokens);
      words.push_back(step.status);
      for (int64_t h = 0; h < p_.value_heads; ++h) {
        if (step.active && !step.refused) {
          run_head(step, b, h, got, output, written, state_error, output_error);
          continue;
        }
        for (int64_t t = 0; t < p_.num_tokens; ++t)
          for (int64_t i = 0; i < p_.value_dim; ++i) {
            const double value = number(output[output_at(b, t, h) + i]);
            num_wrong += step.refused ? !std::isnan(value) : value != 0;
          }
      }
    }
    EXPECT_EQ(num_wrong, 0) << "outputs of sequences that do not run";
    expect_status(status, words);
    // fp32 throughout; bf16 rounds the output once more (1.7e-3).
    EXPECT_LT(state_error.relative(), 1e-4);
    EXPECT_LT(output_error.relative(), sizeof(X) == 2 ? 3e-3 : 1e-4);
    int64_t touched = 0;
    for (int64_t i = 0; i < pool_count(); ++i)
      touched += !written[static_cast<size_t>(i)] &&
                 std::memcmp(&got[i], &host_pool_[i], sizeof(float)) != 0;
    EXPECT_EQ(touched, 0) << "elements of the pool outside the written states";
    EXPECT_TRUE(output.guards_intact() && got.guards_intact());
  }

  const Buffer<X>& output() { return on_host(output_); }
  const Buffer<float>& pool() { return on_host(pool_); }
  PagedMap<Buf>& map() { return map_; }
  int64_t batch() const { return p_.paged.batch(); }

 private:
  struct Error {
    double difference = 0, size = 0;
    void add(double got, double need) {
      difference += (got - need) * (got - need);  // a NaN stays
      size += need * need;
    }
    double relative() const { return size == 0 ? difference : std::sqrt(difference / size); }
  };

  int64_t rows() const { return batch() * p_.num_tokens; }
  int64_t beta_width() const { return p_.beta_per_value ? p_.value_dim : 1; }
  int64_t stride() const { return p_.value_heads * p_.value_dim * p_.key_dim + p_.block_gap; }
  int64_t pool_count() const { return p_.paged.num_blocks() * stride(); }
  int64_t output_at(int64_t b, int64_t t, int64_t h) const {
    return ((b * p_.num_tokens + t) * p_.value_heads + h) * p_.value_dim;
  }
  // Without the L2 norm keys are short, so that the recurrence does not grow.
  Buffer<X> tokens_of(int64_t width, uint64_t seed) const {
    const float range = p_.l2_normalize ? 1.0f : 0.1f;
    return random_numbers<X>({rows(), width + p_.row_gap}, p_.seed + seed, -range, range);
  }
  ConstStridedTensor heads(Tensor t, int64_t num_heads, int64_t width) const {
    t.shape = {batch(), p_.num_tokens, num_heads, width};
    const int64_t token = num_heads * width + p_.row_gap;
    return StridedTensor(t, {p_.num_tokens * token, token, width, 1});
  }

  std::vector<double> key_row(const Buffer<X>& all, int64_t row, int64_t head) const {
    std::vector<double> x(static_cast<size_t>(p_.key_dim));
    const int64_t first = row * (p_.key_heads * p_.key_dim + p_.row_gap) + head * p_.key_dim;
    double squares = 0;
    for (int64_t i = 0; i < p_.key_dim; ++i) {
      x[static_cast<size_t>(i)] = number(all[first + i]);
      squares += x[static_cast<size_t>(i)] * x[static_cast<size_t>(i)];
    }
    if (p_.l2_normalize)
      for (double& each : x) each /= std::sqrt(squares + 1e-6);
    return x;
  }

  void run_head(const ExpectedStep& step, int64_t b, int64_t head, const Buffer<float>& got,
                const Buffer<X>& output, std::vector<bool>& written, Error& state_error,
                Error& output_error) {
    const auto key_dim = static_cast<size_t>(p_.key_dim);
    const double scale =
        p_.scale ? double{*p_.scale} : 1 / std::sqrt(static_cast<double>(p_.key_dim));
    const int64_t key_head = head / (p_.value_heads / p_.key_heads);
    std::vector<std::vector<double>> q, k;
    for (int64_t t = 0; t < p_.num_tokens; ++t) {
      q.push_back(key_row(host_q_, b * p_.num_tokens + t, key_head));
      k.push_back(key_row(host_k_, b * p_.num_tokens + t, key_head));
    }
    std::vector<double> h(key_dim);
    for (int64_t value = 0; value < p_.value_dim; ++value) {
      const int64_t in_block = (head * p_.value_dim + value) * p_.key_dim;
      for (size_t i = 0; i < key_dim; ++i)
        h[i] = step.read
                   ? double{host_pool_[*step.read * stride() + in_block + static_cast<int64_t>(i)]}
                   : 0.0;
      for (int64_t t = 0; t < p_.num_tokens; ++t) {
        const int64_t row = b * p_.num_tokens + t, at_head = row * p_.value_heads + head;
        const auto token = static_cast<size_t>(t);
        double dot = 0, out = 0;
        const double decay = std::exp(double{host_g_[at_head]});
        for (size_t i = 0; i < key_dim; ++i) {
          h[i] *= decay;
          dot += h[i] * k[token][i];
        }
        const double beta =
            number(host_beta_[at_head * beta_width() + (p_.beta_per_value ? value : 0)]);
        const double v = number(host_v_[row * (p_.value_heads * p_.value_dim + p_.row_gap) +
                                        head * p_.value_dim + value]);
        const double d = beta * (v - dot);
        for (size_t i = 0; i < key_dim; ++i) {
          h[i] += d * k[token][i];
          out += h[i] * q[token][i] * scale;
        }
        output_error.add(number(output[output_at(b, t, head) + value]), out);
        if (!step.write[token]) continue;
        const int64_t first = *step.write[token] * stride() + in_block;
        for (size_t i = 0; i < key_dim; ++i) {
          state_error.add(double{got[first + static_cast<int64_t>(i)]}, h[i]);
          written[static_cast<size_t>(first) + i] = true;
        }
      }
    }
  }

  DeltaProblem p_;
  PagedMap<Buf> map_;
  Buffer<X> host_q_, host_k_, host_v_;
  Buffer<float> host_g_;
  Buffer<X> host_beta_;
  Buffer<float> host_pool_;
  Buf<X> q_, k_, v_;
  Buf<float> g_;
  Buf<X> beta_;
  Buf<float> pool_;
  Buf<X> output_;
};

template <class X, template <class> class Buf>
void expect_delta(LinearAttention& attention, const DeltaProblem& problem) {
  SCOPED_TRACE(::testing::Message()
               << "B " << problem.paged.batch() << " heads " << problem.key_heads << "/"
               << problem.value_heads << " Dk " << problem.key_dim << " Dv " << problem.value_dim
               << " n " << problem.num_tokens << " seed " << problem.seed);
  DeltaStep<X, Buf> step(problem);
  attention.delta_rule_decode(step.args());
  step.expect_result(attention.wait_status());
}

// ---- batches

// Lengths uniform in [10, 1024), columns enough for the longest, as the reference tests have it.
inline PagedBatch random_batch(int64_t batch, int64_t num_tokens, int64_t block_tokens,
                               uint64_t seed) {
  PagedBatch p;
  std::mt19937_64 rng(seed);
  int32_t longest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    p.lengths.push_back(static_cast<int32_t>(10 + rng() % 1014));
    longest = std::max(longest, p.lengths.back());
  }
  p.block_tokens = block_tokens;
  p.num_slots = (longest + block_tokens - 1) / block_tokens + num_tokens - 1;
  p.row_stride = p.num_slots;
  return p;
}

// Every length at which something changes, and lengths far outside.
inline PagedBatch boundary_batch(int64_t block_tokens = 16, int64_t num_slots = 4) {
  PagedBatch p;
  p.block_tokens = block_tokens, p.num_slots = num_slots, p.row_stride = num_slots + 3;
  const auto s = static_cast<int32_t>(block_tokens);
  const auto max = static_cast<int32_t>(p.max_tokens());
  p.lengths = {-1,        0,         1,   2,       s,       s + 1,   s + 2,
               max - s,   max - 1,   max, max + 1, max + 2, max + s, 2 * max,
               INT32_MIN, INT32_MAX, 7,   max - 2, 3,       1,       INT32_MAX - 1};
  return p;
}

// Ids that no pool has, to read, to write or both; sequences 0, 3, ... are good.
inline PagedBatch bad_block_batch() {
  PagedBatch p;
  p.row_stride = 6;
  p.first_block = 1;
  const int32_t bad[] = {0, -1, INT32_MIN, INT32_MAX, kHugeBlock};
  for (const int32_t id : bad) {
    // S = 16: L = 17 reads slot 0 and writes from slot 1, L = 20 reads and writes slot 1.
    const auto first = static_cast<int64_t>(p.lengths.size());
    p.lengths.insert(p.lengths.end(), {18, 17, 17, 20, 1});
    p.planted.push_back({first + 1, 0, id});
    p.planted.push_back({first + 2, 1, id});
    p.planted.push_back({first + 3, 1, id});
    p.planted.push_back({first + 4, 0, id});
  }
  // One past the pool.
  p.lengths.insert(p.lengths.end(), {17, 17});
  const auto end = static_cast<int32_t>(p.num_blocks());
  p.planted.push_back({p.batch() - 2, 0, end});
  p.planted.push_back({p.batch() - 1, 1, end});
  return p;
}

}  // namespace switchyard::testing
