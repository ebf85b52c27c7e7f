// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/openblas.cc
#include "openblas.h"

extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
// Of OpenBLAS alone; another BLAS keeps its own setting and has no name.
void openblas_set_num_threads(int num_threads) __attribute__((weak));
char* openblas_get_corename() __attribute__((weak));
}

namespace switchyard::bench {

bool have_sgemm() {
  return true;
}

std::string sgemm_name() {
  return openblas_get_corename != nullptr ? openblas_get_corename() : "other";
}

void set_sgemm_threads(int num_threads) {
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(num_threads);
}

void sgemm(float* d, const float* a, const float* b, int64_t m, int64_t n, int64_t k) {
  // Column-major BLAS sees the transposes: d^T [n, m] = b * a^T.
  const int rows = static_cast<int>(n), cols = static_cast<int>(m), inner = static_cast<int>(k);
  const float one = 1, zero = 0;
  sgemm_("T", "N", &rows, &cols, &inner, &one, b, &inner, a, &inner, &zero, d, &rows);
}

}  // namespace switchyard::bench
