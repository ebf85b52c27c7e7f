// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/device.cc
#include "device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <thread>

#include "commands.h"

namespace switchyard::cli {

std::shared_ptr<Backend> make_backend(const LayerOptions& options, int num_ranks, int rank) {
  if (options.device == DeviceKind::Cuda) {
    if (num_ranks == 1) return make_cuda_backend({.num_sms = options.num_sms});
    const auto& device = describe_device(DeviceKind::Cuda);
    const int sharing = (num_ranks + device.num_devices - 1) / device.num_devices;
    // Kernels that wait for a peer keep a multiprocessor from taking a whole block of a GEMM.
    const int own = sharing == 1 ? 0 : std::max(2, (device.num_sms - 2) / sharing);
    return make_cuda_backend({.num_sms = options.num_sms > 0 ? options.num_sms : own,
                              .device = rank % device.num_devices});
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return make_cpu_backend(options.num_threads > 0 ? options.num_threads
                                                  : std::max(1, cores / num_ranks));
}

LayerWeights place_weights(const LayerWeights& host, const MoeConfig& config, int num_ranks,
                           const LayerOptions& options, Backend& backend,
                           const Progress& progress) {
  if (options.device == DeviceKind::Cpu) return host;
  return to_device(host, config, num_ranks, backend, progress);
}

DeviceBuffer::DeviceBuffer(Backend& backend, DeviceKind device, DType dtype, Shape shape)
    : backend_(&backend), view_(nullptr, dtype, shape, device) {
  memory_ = allocate(backend, static_cast<size_t>(view_.bytes()));
  view_.data = memory_.get();
}

DeviceBuffer::DeviceBuffer(Backend& backend, DeviceKind device, ConstTensor host)
    : DeviceBuffer(backend, device, host.dtype, host.shape) {
  if (host.bytes() > 0) copy_to_device(backend, view_, host.data);
}

void DeviceBuffer::copy_to(void* host) const {
  if (view_.bytes() > 0) copy_to_host(*backend_, host, view_);
}

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
    entry->read({static_cast<std::byte*>(rows.view().data), static_cast<size_t>(entry->num_bytes)});
  } else {
    std::vector<float> values(static_cast<size_t>(rows.view().count()));
    entry->read(std::as_writable_bytes(std::span(values)));
    std::ranges::transform(values, rows.view().as<Bf16>(), [](float v) { return Bf16(v); });
  }
  file.check_unchanged();
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
