// cli/rows.cc
#include "rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

#include "commands.h"

namespace switchyard::cli {

std::shared_ptr<void> aligned_memory(size_t bytes) {
  constexpr size_t kAlign = Workspace::kAlignment;
  std::shared_ptr<void> memory(std::aligned_alloc(kAlign, (bytes / kAlign + 1) * kAlign),
                               std::free);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

Rows::Rows(int64_t num_rows, int64_t hidden)
    : num_rows_(num_rows),
      hidden_(hidden),
      memory_(aligned_memory(static_cast<size_t>(num_rows * hidden) * sizeof(Bf16))) {}

Rows random_rows(int64_t num_rows, int64_t hidden, uint64_t seed) {
  Rows rows(num_rows, hidden);
  std::mt19937_64 rng(seed);
  for (int64_t i = 0; i < num_rows * hidden; ++i)
    rows.view().as<Bf16>()[i] =
        Bf16(static_cast<float>(static_cast<int64_t>(rng() >> 40)) * 0x1p-23f - 1.0f);
  return rows;
}

Rows read_rows(const TensorFile& file, const std::string& name, int64_t hidden) {
  const TensorEntry* entry = file.find(name);
  if (entry == nullptr) file.tensor(name);  // throws, with the nearest name
  const bool is_wide = entry->dtype == "F32";
  const bool fits =
      (is_wide || entry->dtype == "BF16") && entry->shape.size() == 2 && entry->shape[1] == hidden;
  require_usage(fits, "{}: tensor {} is {} [{}], need BF16 or F32 [T, {}]", file.path().string(),
                name, entry->dtype, fmt::join(entry->shape, ", "), hidden);
  Rows rows(entry->shape[0], hidden);
  if (!is_wide) {
    std::memcpy(rows.view().data, entry->bytes.data(), entry->bytes.size());
    return rows;
  }
  for (int64_t i = 0; i < rows.view().count(); ++i) {
    float value;  // a file's bytes need not be at a multiple of 4
    std::memcpy(&value, entry->bytes.data() + static_cast<size_t>(i) * sizeof value, sizeof value);
    rows.view().as<Bf16>()[i] = Bf16(value);
  }
  return rows;
}

std::vector<int64_t> random_token_ids(int64_t num_tokens, int64_t vocabulary, uint64_t seed) {
  std::vector<int64_t> ids(num_tokens);
  std::mt19937_64 rng(seed);
  for (int64_t& id : ids)
    id = static_cast<int64_t>(rng() % static_cast<uint64_t>(std::max<int64_t>(1, vocabulary)));
  return ids;
}

std::vector<int64_t> read_token_ids(const TensorFile& file, const std::string& name,
                                    int64_t num_tokens) {
  const ConstTensor t = file.tensor(name);
  const bool is_wide = t.dtype == DType::I64;
  require_usage(t.shape == Shape{num_tokens} && (is_wide || t.dtype == DType::I32),
                "{}: tensor {} is no I32 or I64 [{}], one id for each input row",
                file.path().string(), name, num_tokens);
  std::vector<int64_t> ids(num_tokens);
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = is_wide ? t.as<int64_t>()[i] : t.as<int32_t>()[i];
  return ids;
}

}  // namespace switchyard::cli
