// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/module.cc -- switchyard._native: the C++ API for Python.
#include "bind.h"
#include "errors.h"
#include "host.h"

NB_MODULE(_native, m) {
  using namespace switchyard::python;
  m.attr("VERSION") = SWITCHYARD_VERSION;
  translate_errors();
  watch_forks();
  nb::set_leak_warnings(false);  // other modules keep objects until the process ends
  bind_config(m);
  bind_backends(m);
  bind_tensors(m);
  bind_weights(m);
  bind_placement(m);
  bind_ranks(m);
  bind_layer(m);
  bind_fused_experts(m);
  bind_torch_op(m);
  bind_linear_attention(m);
}
