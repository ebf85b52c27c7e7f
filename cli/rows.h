// cli/rows.h -- bf16 rows that the CLI owns, aligned as layers want them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "switchyard/safetensors.h"
#include "switchyard/tensor.h"

namespace switchyard::cli {

std::shared_ptr<void> aligned_memory(size_t bytes);

class Rows {
 public:
  Rows(int64_t num_rows, int64_t hidden);
  int64_t num_rows() const { return num_rows_; }
  int64_t hidden() const { return hidden_; }
  Tensor view() { return {memory_.get(), DType::Bf16, {num_rows_, hidden_}}; }
  ConstTensor view() const { return {memory_.get(), DType::Bf16, {num_rows_, hidden_}}; }

 private:
  int64_t num_rows_, hidden_;
  std::shared_ptr<void> memory_;
};

// Uniform in [-1, 1).
Rows random_rows(int64_t num_rows, int64_t hidden, uint64_t seed);
// A copy of tensor `name`, rounded to bf16. Throws UsageError unless it is bf16 or f32 [T, hidden].
Rows read_rows(const TensorFile& file, const std::string& name, int64_t hidden);

// Uniform in [0, vocabulary).
std::vector<int64_t> random_token_ids(int64_t num_tokens, int64_t vocabulary, uint64_t seed);
// A copy of tensor `name`. Throws UsageError unless it is i32 or i64 [num_tokens].
std::vector<int64_t> read_token_ids(const TensorFile& file, const std::string& name,
                                    int64_t num_tokens);

}  // namespace switchyard::cli
