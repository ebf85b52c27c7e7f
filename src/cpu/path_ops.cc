// src/cpu/path_ops.cc -- all in fp32, an element or a row at a time.
#include "cpu/path_ops.h"

#include <cmath>

#include "cpu/numbers.h"

namespace switchyard::cpu {

void split_f32(Tensor dst, ConstTensor src) {
  const int64_t count = src.count();
  for (int64_t i = 0; i < count; ++i) {
    float rest = src.as<float>()[i];
    for (int64_t part = 0; part < 3; ++part) {
      const Bf16 rounded(rest);
      dst.as<Bf16>()[part * count + i] = rounded;
      rest -= static_cast<float>(rounded);  // exact: it has the bits that were rounded away
    }
  }
}

void split_zero_experts(Tensor dst_ids, Tensor identity, ConstTensor ids, ConstTensor weights,
                        int64_t num_experts, int64_t num_ids) {
  const int64_t top_k = ids.dim(1);
  for (int64_t t = 0; t < ids.dim(0); ++t) {
    float sum = 0;
    for (int64_t at = t * top_k; at < (t + 1) * top_k; ++at) {
      const int32_t id = ids.as<int32_t>()[at];
      const bool is_zero = id >= num_experts && id < num_ids;
      if (is_zero) sum += weights.as<float>()[at];
      dst_ids.as<int32_t>()[at] = is_zero ? kNoExpert : id;
    }
    identity.as<float>()[t] = sum;
  }
}

void norm_rows(const NormRows& norm, ThreadPool& pool) {
  const int64_t width = norm.src.dim(1);
  pool.parallel_for(norm.src.dim(0), [&](int64_t t) {
    double squares = 0;
    for (int64_t i = t * width; i < (t + 1) * width; ++i) {
      const double x = load_number(norm.src, i);
      squares += x * x;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(width));
    const float inverse = 1.0f / std::sqrt(mean + norm.epsilon);
    if (norm.inverse.present()) norm.inverse.as<float>()[t] = inverse;
    if (!norm.dst.present()) return;
    for (int64_t i = 0; i < width; ++i)
      norm.dst.as<Bf16>()[t * width + i] =
          Bf16(load_number(norm.src, t * width + i) * inverse * norm.weight.as<float>()[i]);
  });
}

void weigh_shared(Tensor dst, ConstTensor src, ConstTensor weights, ThreadPool& pool) {
  const int64_t num_tokens = dst.dim(0), width = dst.dim(1), num_shared = weights.dim(1);
  pool.parallel_for(num_tokens, [&](int64_t t) {
    float* row = dst.as<float>() + t * width;
    for (int64_t i = 0; i < width; ++i) {
      float sum = 0;
      for (int64_t s = 0; s < num_shared; ++s)
        sum += weights.as<float>()[t * num_shared + s] *
               src.as<float>()[(s * num_tokens + t) * width + i];
      row[i] = sum;
    }
  });
}

void add_rows(Tensor dst, ConstTensor src, const Addend& addend, ThreadPool& pool) {
  const int64_t width = dst.dim(1);
  pool.parallel_for(dst.dim(0), [&](int64_t t) {
    const float scale = addend.scale.present() ? addend.scale.as<float>()[t] : 1.0f;
    for (int64_t i = t * width; i < (t + 1) * width; ++i) {
      const float more = addend.rows.present() ? scale * addend.rows.as<float>()[i] : 0.0f;
      dst.as<Bf16>()[i] = Bf16(src.as<float>()[i] + more);
    }
  });
}

}  // namespace switchyard::cpu
