// cli/ranks.cc
#include "ranks.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "commands.h"

namespace switchyard::cli {
namespace {

std::shared_ptr<Communicator> connect_processes() {
  std::shared_ptr<Communicator> comm = make_process_rank();
  if (const std::string warning = process_rank_warning(); comm->rank() == 0 && !warning.empty())
    std::fputs(fmt::format("switchyard: {}\n", warning).c_str(), stderr);
  return comm;
}

std::shared_ptr<Communicator> connect(const std::string& transport) {
  if (transport == "threads") return nullptr;
  if (transport == "processes") return connect_processes();
  if (transport == "mpi") return make_mpi_rank();
  throw UsageError(fmt::format("--transport={}, need threads, processes or mpi", transport));
}

// What torchrun or Open MPI says, if it is one of low .. high; else `unsaid`.
int number_from(const char* torchrun, const char* open_mpi, int low, int high, int unsaid) {
  for (const char* variable : {torchrun, open_mpi})
    if (const char* text = std::getenv(variable))
      if (const int number = std::atoi(text); number >= low && number <= high) return number;
  return unsaid;
}

}  // namespace

Ranks::Ranks(const std::string& transport, int num_threads)
    : size_(num_threads), num_on_machine_(num_threads), comm_(connect(transport)) {
  if (!comm_) return;
  size_ = comm_->size();
  // Without a word, all ranks are here.
  num_on_machine_ = number_from("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", 1, size_, size_);
  local_ = number_from("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", 0, num_on_machine_ - 1,
                       comm_->rank());
}

void Ranks::run(const std::function<void(Communicator&)>& body) const {
  comm_ ? body(*comm_) : run_local_ranks(size_, body);
}

int Ranks::exit_code_of(const std::function<int()>& command) const {
  try {
    return command();
  } catch (const std::exception& e) {
    if (comm_) comm_->abort(fmt::format("rank {}: {}", comm_->rank(), e.what()));
    if (speaks()) throw;
    return exit_code(e);
  }
}

Rows Shares::gather(Communicator& comm, const Rows& own) const {
  Rows all(comm.size() * own.num_rows(), own.hidden()), whole(num_rows_, own.hidden());
  comm.all_gather(all.view(), own.view(), nullptr);
  for (int r = 0; r < comm.size(); ++r) {
    if (!is_first_of_group(r) || size(r) == 0) continue;
    const auto from = std::as_const(all).view().rows(r * own.num_rows(), size(r));
    std::memcpy(whole.view().rows(begin(r), size(r)).data, from.data, from.bytes());
  }
  return whole;
}

}  // namespace switchyard::cli
