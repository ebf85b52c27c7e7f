// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/load_kernels.h -- all kernels into the current device, before one of them waits.
//
// CUDA loads a kernel at its first launch, and loading may wait for whatever the device runs: for a
// kernel that waits for a peer, whose host thread may wait for this very loading.
#pragma once

namespace switchyard::cuda {

// `kernel` is any kernel of a file: the others of that file are loaded with it. For static
// initialisers; always true.
bool note_module(const void* kernel);

// Every kernel of every file that was noted. Waits for the device, and costs nothing once done.
void load_kernels();

}  // namespace switchyard::cuda
