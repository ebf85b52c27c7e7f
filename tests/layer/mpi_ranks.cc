// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/layer/mpi_ranks.cc -- under mpirun: ranks of an MPI job give the bits of threads, and agree
// about an error.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "layer/rank_outputs.h"

namespace {

// Every rank must see the same error when one rank's ids are wrong.
bool error_reaches_all(switchyard::Communicator& comm) {
  using namespace switchyard;
  auto config = testing::transport_config();
  LayerOptions options;
  options.max_tokens = 8;
  options.num_threads = 1;
  auto layer =
      MoeLayer::create(config, random_weights(config, comm.size(), comm.rank(), 1), comm, options);
  const auto hidden = testing::random_bf16({4, 128}, 1);
  testing::Buffer<int32_t> ids({4, 4});
  testing::Buffer<float> weights({4, 4});
  for (int64_t i = 0; i < 16; ++i) ids[i] = static_cast<int32_t>(i), weights[i] = 1;
  if (comm.rank() == comm.size() - 1) ids[5] = 99;
  testing::Buffer<Bf16> output({4, 128});
  layer->forward({.output = output.view(),
                  .hidden = hidden.view(),
                  .ids = std::as_const(ids).view(),
                  .weights = std::as_const(weights).view()});
  try {
    layer->wait();
  } catch (const Error& e) {
    return e.code() == Errc::BadRouting;
  }
  return false;
}

}  // namespace

int main() {
  using namespace switchyard;
  try {
    const auto comm = make_mpi_rank();
    const auto expected = testing::thread_outputs(comm->size());
    const bool same = testing::rank_outputs(*comm) == expected[static_cast<size_t>(comm->rank())];
    const bool agreed = error_reaches_all(*comm);
    std::vector<int32_t> all(static_cast<size_t>(comm->size()));
    const int32_t mine = same && agreed;
    comm->all_gather(Tensor(all.data(), {comm->size()}), ConstTensor(&mine, {1}), nullptr);
    const bool good = std::count(all.begin(), all.end(), 1) == comm->size();
    if (comm->rank() == 0)
      std::printf("%d ranks over %s: %s\n", comm->size(), comm->transport(),
                  good ? "the bits of threads" : "DIFFERENT");
    return good ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
