// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/nccl.h -- at the head of a test of ranks over NCCL.
#pragma once

#include "switchyard/communicator.h"
#include "testing/gpu_ranks.h"

// NCCL wants a GPU for each rank.
#define SWITCHYARD_SKIP_WITHOUT_NCCL(gpus)                                 \
  if (!::switchyard::has_nccl()) GTEST_SKIP() << "this build has no NCCL"; \
  SWITCHYARD_SKIP_WITHOUT_GPUS(gpus)
