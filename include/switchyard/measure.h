// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// include/switchyard/measure.h -- public: what a device reaches, and what a forward takes of it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "switchyard/layer.h"

namespace [[gnu::visibility("default")]] switchyard {

/// What one GPU reaches at most, measured in this process: the limits that times stand beside.
struct DeviceRates {
  std::string name;           // "NVIDIA H100 80GB HBM3"
  std::string driver;         // "580.95.05"; the CUDA version it serves where it does not say
  double copy_gbps = 0;       // device copy of 2 GiB, bytes read and bytes written
  double read_gbps = 0;       // reduction of 2 GiB
  double gemm_tflops = 0;     // cuBLAS, bf16 8192 cubed on random data
  double f8_gemm_tflops = 0;  // cuBLASLt, f8_e4m3 of one scale, as large; 0: it cannot
  double sm_clock_mhz = 0;    // of one multiprocessor right after the GEMMs
};

/// Medians of 20. Takes about a second and 4.25 GiB of device memory, freed at the end.
/// Throws Error(Unsupported) for a CPU backend: its rates are the machine's, not the library's.
DeviceRates measure_device(Backend& backend);

/// One operation of a forward, or the forward as a whole.
struct OpTime {
  std::string op;  // a name from ops.h; "layer", or "layer_given_routing" when ids were passed
  double us = 0;   // median; calls of one name within a forward add up
  double min_us = 0;
  double max_us = 0;
  /// What it had to move and compute for the rows it was given. Of a layer: the weights of its
  /// active experts with the rows in and out, and the experts' flops; what lies between could stay
  /// in caches.
  double bytes = 0;
  double flops = 0;
  /// CUDA: of a forward that no graph can hold, since the host waits in it; that time counts.
  bool eager = false;
  bool is_layer = false;         // the forward as a whole
  std::optional<Phase> phase{};  // CUDA: of an operation's first call, or the part of a forward
  int num_kernels = 0;           // CUDA: that a layer launches; 0: not counted
  double f8_flops = 0;           // of products of f8_e4m3, part of flops
  int num_operations = 0;        // of a layer: operations that this rank runs, each call counted
};

/// The least that the operation can take on such a device: a GEMM max(flops / cuBLAS rate, bytes /
/// copy rate), other operations bytes / copy rate, a layer max(flops / cuBLAS rate, bytes / read
/// rate). Products of f8_e4m3 have a rate of their own, twice that of bf16 where it is not known.
double floor_us(const OpTime& time, const DeviceRates& rates);

struct MeasureOptions {
  int repeat = 20;   // runs whose median is taken
  bool cold = true;  // CUDA: nothing of the operands is in L2 when a run begins
  /// CUDA, one rank: operations of this part of a forward alone are measured, each by itself;
  /// absent: all.
  std::optional<Phase> only{};
  bool whole = true;  // CUDA, one rank: the layer is measured, too
  /// Several ranks on CUDA: called between what allocates memory and what peers wait for, on every
  /// rank as often. Ranks that share a device must meet there (all_gather, say).
  std::function<void()> meet = [] {};
};

/// Times `layer.forward(args)` on `backend`, which must be the layer's own: each operation in order
/// of its first call, the layer last. The forward is collective, so every rank calls this.
///
/// CUDA: the forward is captured into a graph and replayed, then each of its calls alone, in order,
/// on what the calls before it left; `args.stream` is ignored. Over several ranks its parts
/// instead, "dispatch", "experts" and "combine", as they follow each other in one graph whose runs
/// all ranks begin together; bytes of dispatch and combine are those that cross links, own rows
/// left out; 0 over NCCL, where ranks wait for each other within a part. Exact sizes over NCCL,
/// which the host reads: the layer alone, `eager`. CPU: by the host's clock, operations observed.
///
/// Throws what forward and wait throw.
std::vector<OpTime> measure_forward(MoeLayer& layer, const ForwardArgs& args, Backend& backend,
                                    const MeasureOptions& options = {});

/// Times what `enqueue` runs on `backend`, a step of linear_attention.h say, under the name of its
/// first operation; bytes and flops of several add up. It gets the stream to put its work on and is
/// called several times, twice at least.
///
/// CUDA: captured into a graph and replayed. CPU: by the host's clock. Throws what `enqueue`
/// throws.
OpTime measure_operation(const std::function<void(CUstream_st*)>& enqueue, Backend& backend,
                         const MeasureOptions& options = {});

/// GB/s of the driver's copy of `bytes` from the device of `from` to that of `to`, median of 20.
/// Neither has other work meanwhile. Throws Error(Unsupported) for a CPU backend, and where one
/// device cannot reach the other.
double measure_link(Backend& from, Backend& to, int64_t bytes);

/// random_weights(config, num_ranks, rank, seed, format), bit by bit, in memory of the backend's
/// device and made there.
LayerWeights random_device_weights(const MoeConfig& config, Backend& backend, uint64_t seed,
                                   int num_ranks = 1, int rank = 0,
                                   const ExpertFormat& format = {});

}  // namespace switchyard
