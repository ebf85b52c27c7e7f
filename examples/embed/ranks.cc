// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// examples/embed/ranks.cc -- one layer over ranks that are threads, processes of a launcher, or
// processes of an MPI job:
//   ./ranks threads
//   torchrun --no-python --nproc-per-node 2 ./ranks processes
//   mpirun --allow-run-as-root --oversubscribe -n 2 ./ranks mpi
#include <cstdio>
#include <string>
#include <vector>

#include "switchyard/layer.h"

using namespace switchyard;

// [rank]
// The same for every transport. All ranks make the same calls; each has its own tokens and experts.
void run_rank(Communicator& comm) {
  MoeConfig config{.hidden = 256, .intermediate = 128, .num_experts = 16, .top_k = 4};
  LayerOptions options;
  options.max_tokens = 32;  // of the rank with the most tokens
  const auto layer =
      MoeLayer::create(config, random_weights(config, comm.size(), comm.rank(), 42), comm, options);

  const int64_t tokens = 20 + comm.rank();
  std::vector<Bf16> hidden(static_cast<size_t>(tokens * config.hidden), Bf16(0.5f));
  std::vector<Bf16> output(hidden.size());
  layer->forward({.output = Tensor(output.data(), {tokens, config.hidden}),
                  .hidden = ConstTensor(hidden.data(), {tokens, config.hidden})});
  layer->wait();  // a lost or late peer is an Error(Transport) here
  if (comm.rank() == 0)
    std::printf("%d ranks over %s: %s\n", comm.size(), comm.transport(),
                layer->strategy().name.c_str());
}
// [rank]

int main(int argc, char** argv) {
  const std::string transport = argc > 1 ? argv[1] : "threads";
  try {
    // [transports]
    if (transport == "threads") run_local_ranks(2, run_rank);
    if (transport == "processes") run_rank(*make_process_rank());  // RANK, WORLD_SIZE, MASTER_...
    if (transport == "mpi") run_rank(*make_mpi_rank());            // of MPI_COMM_WORLD
    // [transports]
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
