// cli/ranks.cc
#include "ranks.h"

#include <fmt/format.h>

#include <cstdlib>
#include <vector>

#include "commands.h"

namespace switchyard::cli {
namespace {

std::shared_ptr<Communicator> connect(const std::string& transport) {
  if (transport == "threads") return nullptr;
  if (transport == "processes") return make_process_rank();
  if (transport == "mpi") return make_mpi_rank();
  throw UsageError(fmt::format("--transport={}, need threads, processes or mpi", transport));
}

// As torchrun and Open MPI say it; without a word, all ranks are here.
int ranks_on_machine(int all) {
  for (const char* variable : {"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"})
    if (const char* text = std::getenv(variable))
      if (const int number = std::atoi(text); number >= 1 && number <= all) return number;
  return all;
}

}  // namespace

void meet(Communicator& comm) {
  const int32_t mine = 1;
  std::vector<int32_t> all(static_cast<size_t>(comm.size()));
  comm.all_gather(Tensor(all.data(), {comm.size()}), ConstTensor(&mine, {1}), nullptr);
}

Ranks::Ranks(const std::string& transport, int num_threads)
    : size_(num_threads), num_on_machine_(num_threads), comm_(connect(transport)) {
  if (!comm_) return;
  size_ = comm_->size();
  num_on_machine_ = ranks_on_machine(size_);
}

void Ranks::run(const std::function<void(Communicator&)>& body) const {
  comm_ ? body(*comm_) : run_local_ranks(size_, body);
}

void Ranks::give_up(const std::string& reason) const noexcept {
  try {
    if (comm_) comm_->abort(fmt::format("rank {}: {}", comm_->rank(), reason));
  } catch (...) {  // no memory for the words: peers still end at their deadline
  }
}

}  // namespace switchyard::cli
