// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/no_mpi.cc -- in place of mpi.cc where the build has no MPI.
#include "base/require.h"
#include "switchyard/communicator.h"

namespace switchyard {

bool has_mpi() noexcept {
  return false;
}

std::unique_ptr<Communicator> make_mpi_rank(std::chrono::milliseconds) {
  throw Error(Errc::Unsupported,
              "make_mpi_rank: this build has no MPI. Install OpenMPI's development files and build "
              "again, or use make_process_rank.");
}

}  // namespace switchyard
