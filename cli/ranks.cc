// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/ranks.cc
#include "ranks.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "interrupts.h"
#include "options.h"
#include "switchyard/error.h"

namespace switchyard::cli {
namespace {

constexpr const char* kAuto = "auto";

std::shared_ptr<Communicator> connect_processes() {
  std::shared_ptr<Communicator> comm = make_process_rank();
  if (const std::string warning = process_rank_warning(); comm->rank() == 0 && !warning.empty())
    std::fputs(fmt::format("switchyard: {}\n", warning).c_str(), stderr);
  return comm;
}

std::shared_ptr<Communicator> connect(const std::string& transport) {
  if (transport == "processes") return connect_processes();
  return transport == "mpi" ? make_mpi_rank() : nullptr;
}

// Without a word of the user's.
std::shared_ptr<Communicator> connect_as_launched(const std::string& transport) {
  try {
    return connect(transport);
  } catch (const Error& e) {
    throw Error(e.code(),
                fmt::format("{} The environment says that this process is one of several; "
                            "--transport threads runs it alone.",
                            e.what()));
  }
}

bool says_several(const char* variable) {
  const char* text = std::getenv(variable);
  return text != nullptr && std::atoi(text) > 1;
}

// What torchrun or Open MPI says, if it is one of low .. high; else `unsaid`.
int number_from(const char* torchrun, const char* open_mpi, int low, int high, int unsaid) {
  for (const char* variable : {torchrun, open_mpi})
    if (const char* text = std::getenv(variable))
      if (const int number = std::atoi(text); number >= low && number <= high) return number;
  return unsaid;
}

}  // namespace

CLI::Option* add_transport(CLI::App& command, std::string& transport) {
  transport = kAuto;
  return add_choice(
      command, "--transport", transport, {kAuto, "threads", "processes", "mpi"},
      "threads of this process; processes that torchrun started (RANK, WORLD_SIZE, "
      "MASTER_ADDR, MASTER_PORT); mpi, under mpirun; auto: what started this process");
}

std::string launched_by() {
  const bool has_rank = says_several("WORLD_SIZE") && std::getenv("RANK") != nullptr;
  // torchrun may run under srun, one on each node.
  if (has_rank && std::getenv("TORCHELASTIC_RUN_ID") != nullptr) return "processes";
  // Open MPI's, and that of MPICH, Intel MPI and srun with pmi2.
  if (says_several("OMPI_COMM_WORLD_SIZE") || says_several("PMI_SIZE")) return "mpi";
  if (has_rank) return "processes";
  // srun's own, with whatever MPI plugin; a batch script, which is one process, has none of it.
  return says_several("SLURM_STEP_NUM_TASKS") ? "mpi" : "";
}

Ranks::Ranks(const std::string& transport, int num_threads)
    : transport_(transport), size_(num_threads), num_on_machine_(num_threads) {
  const bool chosen = transport_ != kAuto;
  if (!chosen) transport_ = launched_by().empty() ? "threads" : launched_by();
  comm_ = chosen ? connect(transport_) : connect_as_launched(transport_);
  if (!comm_) return;
  // What srun started without a plugin for MPI is alone to MPI: copies that know nothing of each other.
  if (!chosen && comm_->size() == 1)
    throw Error(
        Errc::Unsupported,
        "communicator: ranks=1 over MPI, the environment says that there are several. Start "
        "them with srun --mpi=pmix or mpirun; --transport threads runs each alone.");
  if (!speaks()) keep_interrupts_silent();
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
    const int code = command();
    ignore_termination();
    return code;
  } catch (const std::exception& e) {
    ignore_termination();
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
