// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// bench/no_openblas.cc -- built where no BLAS is installed: the column says so.
#include "openblas.h"

namespace switchyard::bench {

bool have_sgemm() {
  return false;
}
std::string sgemm_name() {
  return "none";
}
void set_sgemm_threads(int) {}
void sgemm(float*, const float*, const float*, int64_t, int64_t, int64_t) {}

}  // namespace switchyard::bench
