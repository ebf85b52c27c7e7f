// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/path_ops.cc -- all in fp32, an element or a row at a time.
#include "cpu/run.h"

#include <cmath>

#include "cpu/numbers.h"
#include "cpu/slot_tables.h"

namespace switchyard::cpu {

template <>
void run(const SplitF32& op, const Context&) {
  const int64_t count = op.src.count();
  for (int64_t i = 0; i < count; ++i) {
    float rest = op.src.as<float>()[i];
    for (int64_t part = 0; part < 3; ++part) {
      const Bf16 rounded(rest);
      op.dst.as<Bf16>()[part * count + i] = rounded;
      rest -= static_cast<float>(rounded);  // exact: it has the bits that were rounded away
    }
  }
}

template <>
void run(const SplitZeroExperts& op, const Context&) {
  const int64_t top_k = op.ids.dim(1);
  const SlotsView slots(op.slots);
  for (int64_t t = 0; t < op.ids.dim(0); ++t) {
    float sum = 0;
    for (int64_t at = t * top_k; at < (t + 1) * top_k; ++at) {
      const int32_t id = op.ids.as<int32_t>()[at];
      const bool is_zero = id >= op.num_experts && id < op.num_ids;
      const float weight = op.weights.as<float>()[at];
      if (is_zero) sum += weight;
      op.dst_ids.as<int32_t>()[at] = is_zero ? kNoExpert : place_id(slots, id, t, weight);
    }
    op.identity.as<float>()[t] = sum;
  }
}

template <>
void run(const NormRows& op, const Context& context) {
  const int64_t width = op.src.dim(1);
  context.pool.parallel_for(op.src.dim(0), [&](int64_t t) {
    double squares = 0;
    for (int64_t i = t * width; i < (t + 1) * width; ++i) {
      const double x = load_number(op.src, i);
      squares += x * x;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(width));
    const float inverse = 1.0f / std::sqrt(mean + op.epsilon);
    if (op.inverse.present()) op.inverse.as<float>()[t] = inverse;
    if (!op.dst.present()) return;
    for (int64_t i = 0; i < width; ++i)
      op.dst.as<Bf16>()[t * width + i] =
          Bf16(load_number(op.src, t * width + i) * inverse * op.weight.as<float>()[i]);
  });
}

template <>
void run(const WeighShared& op, const Context& context) {
  const int64_t num_tokens = op.dst.dim(0), width = op.dst.dim(1), num_shared = op.weights.dim(1);
  context.pool.parallel_for(num_tokens, [&](int64_t t) {
    float* row = op.dst.as<float>() + t * width;
    for (int64_t i = 0; i < width; ++i) {
      float sum = 0;
      for (int64_t s = 0; s < num_shared; ++s)
        sum += op.weights.as<float>()[t * num_shared + s] *
               op.src.as<float>()[(s * num_tokens + t) * width + i];
      row[i] = sum;
    }
  });
}

template <>
void run(const AddRows& op, const Context& context) {
  const int64_t width = op.dst.dim(1);
  context.pool.parallel_for(op.dst.dim(0), [&](int64_t t) {
    const float scale = op.addend.scale.present() ? op.addend.scale.as<float>()[t] : 1.0f;
    for (int64_t i = t * width; i < (t + 1) * width; ++i) {
      const float more = op.addend.rows.present() ? scale * op.addend.rows.as<float>()[i] : 0.0f;
      op.dst.as<Bf16>()[i] = Bf16(op.src.as<float>()[i] + more);
    }
  });
}

}  // namespace switchyard::cpu
