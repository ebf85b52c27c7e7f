// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// examples/embed/device.cc -- one layer over this machine's GPUs, a thread for each; over two
// threads of the CPU where there is no GPU. The code of a rank is the same.
//   ./device
//   CUDA_VISIBLE_DEVICES=0 ./device
#include <algorithm>
#include <bit>
#include <cstdio>
#include <vector>

#include "switchyard/layer.h"
#include "switchyard/oracle.h"

using namespace switchyard;

const MoeConfig kConfig{.hidden = 256, .intermediate = 128, .num_experts = 16, .top_k = 4};

// [device]
// What one rank computes of its own tokens, bf16 [T, H] on the host.
std::vector<Bf16> run_rank(Communicator& comm, DeviceKind device, const std::vector<Bf16>& tokens) {
  const auto backend =
      device == DeviceKind::Cuda ? make_cuda_backend({.device = comm.rank()}) : make_cpu_backend(1);
  const auto stream = make_stream(*backend);  // of this rank alone; null on the CPU
  const auto weights = to_device(random_weights(kConfig, comm.size(), comm.rank(), 42), kConfig,
                                 comm.size(), *backend);
  LayerOptions options;
  options.max_tokens = 32;
  options.device = device;
  options.backend = backend;
  const auto layer = MoeLayer::create(kConfig, weights, comm, options);

  const Shape shape{static_cast<int64_t>(tokens.size()) / kConfig.hidden, kConfig.hidden};
  const auto memory = allocate(*backend, 2 * tokens.size() * sizeof(Bf16));
  const Tensor output(memory.get(), DType::Bf16, shape, device);
  // Peers may fetch rows from a place of the layer's own: written there, they are not copied.
  Tensor hidden = layer->input_rows();
  hidden = hidden.present() ? hidden.rows(0, shape[0])
                            : Tensor(output.as<Bf16>() + tokens.size(), shape, device);

  copy_to_device(*backend, hidden, tokens.data(), stream.get());
  // Enqueued, no more: a graph may hold it.
  layer->forward({.output = output, .hidden = hidden, .stream = stream.get()});
  layer->wait(stream.get());  // throws what only a device or a peer could know
  std::vector<Bf16> result(tokens.size());
  copy_to_host(*backend, result.data(), output, stream.get());
  return result;
}
// [device]

// Of rows of one rank, to float64.
double error_of(const std::vector<Bf16>& tokens, const std::vector<Bf16>& result) {
  const Shape shape{static_cast<int64_t>(tokens.size()) / kConfig.hidden, kConfig.hidden};
  std::vector<double> expected(tokens.size());
  oracle_forward(Tensor(expected.data(), shape), kConfig, random_weights(kConfig, 1, 0, 42),
                 ConstTensor(tokens.data(), shape));
  return compare(ConstTensor(result.data(), shape), ConstTensor(expected.data(), shape)).rel_error;
}

int main() {
  const auto& gpus = describe_device(DeviceKind::Cuda);
  const auto device = gpus.available ? DeviceKind::Cuda : DeviceKind::Cpu;
  // A power of two divides the experts.
  const auto most = std::min<int64_t>(gpus.num_devices, kConfig.num_experts);
  const int num_ranks =
      gpus.available ? static_cast<int>(std::bit_floor(static_cast<unsigned>(most))) : 2;
  std::vector<double> errors(static_cast<size_t>(num_ranks));
  try {
    run_local_ranks(num_ranks, [&](Communicator& comm) {
      const auto rank = static_cast<size_t>(comm.rank());
      std::vector<Bf16> tokens((20 + rank) * static_cast<size_t>(kConfig.hidden));
      for (size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = Bf16(float((i * (rank + 3)) % 17) / 16 - 0.5f);
      errors[rank] = error_of(tokens, run_rank(comm, device, tokens));
    });
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  const double worst = *std::max_element(errors.begin(), errors.end());
  std::printf("%d ranks on %s: error %.1e to float64\n", num_ranks,
              gpus.available ? gpus.name.c_str() : "the CPU", worst);
  return worst < 4e-3 ? 0 : 1;
}
