// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/openblas.h -- the rival: sgemm of the BLAS that is installed.
#pragma once

#include <cstdint>
#include <string>

namespace switchyard::bench {

// False when the benchmark was built without a BLAS.
bool have_sgemm();
// OpenBLAS names the processor its kernels are for; "other" for another BLAS, "none" without one.
std::string sgemm_name();
void set_sgemm_threads(int num_threads);
// d [m, n] = a [m, k] * b [n, k]^T, fp32, row-major.
void sgemm(float* d, const float* a, const float* b, int64_t m, int64_t n, int64_t k);

}  // namespace switchyard::bench
