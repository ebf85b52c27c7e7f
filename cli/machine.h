// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// cli/machine.h -- what this machine can do at most, measured: the floors of times.
#pragma once

namespace switchyard::cli {

struct MachineRates {
  double read_gbps = 0;   // streaming reads, all threads
  double fma_gflops = 0;  // fp32 multiply-adds in registers, all threads
};

// Takes about half a second.
MachineRates measure_machine(int num_threads);

}  // namespace switchyard::cli
