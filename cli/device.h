// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/device.h -- bf16 rows that a command owns, aligned as layers want them; the device it runs on:
// its backend, buffers on it, weights on it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "layer_options.h"
#include "switchyard/backend.h"
#include "switchyard/layer.h"
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

// ---- the device a command runs on

// Of the device that `options` name, for rank `rank` of `num_ranks` on this machine; on the CPU
// with this rank's threads, as a layer makes it. On CUDA ranks take the devices that this process
// sees in turn, and those on one device share its multiprocessors.
std::shared_ptr<Backend> make_backend(const LayerOptions& options, int num_ranks, int rank);

// The weights where the layer reads them: a copy on a CUDA device, the given ones on the CPU.
LayerWeights place_weights(const LayerWeights& host, const MoeConfig& config, int num_ranks,
                           const LayerOptions& options, Backend& backend,
                           const Progress& progress = {});

// A tensor in memory of a backend's device.
class DeviceBuffer {
 public:
  // Holds anything.
  DeviceBuffer(Backend& backend, DeviceKind device, DType dtype, Shape shape);
  // A copy of memory of the host.
  DeviceBuffer(Backend& backend, DeviceKind device, ConstTensor host);

  Tensor view() const { return view_; }
  // Waits for the device's default stream, where the commands run their layers.
  void copy_to(void* host) const;

 private:
  Backend* backend_;
  std::shared_ptr<void> memory_;
  Tensor view_;
};

}  // namespace switchyard::cli
