// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/describe_device.cc -- what this machine is, asked once.
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/backend.h"
#include "device/cuda_device.h"
#include "device/memory.h"

namespace switchyard {
namespace {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0)
      if (const auto colon = line.find(": "); colon != std::string::npos)
        return line.substr(colon + 2);
  return "CPU";
}

DeviceDescription describe_cpu() {
  DeviceDescription d;
  d.kind = DeviceKind::Cpu;
  const long cores = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES),
             page = sysconf(_SC_PAGESIZE);
  d.name = cpu_model() + ", " + std::to_string(cores) + " cores";
  d.memory_bytes = static_cast<double>(pages) * static_cast<double>(page);
  // Nominal, per core of a current server: 10 GB/s of streaming reads, 60 GFLOP/s of fp32 FMA. They
  // only rank strategies; `switchyard bench` measures the real ones.
  d.read_gbps = 10.0 * static_cast<double>(cores);
  d.gemm_gflops = 60.0 * static_cast<double>(cores);
  d.link_gbps = 10.0;
  return d;
}

}  // namespace

const DeviceDescription& describe_device(DeviceKind kind) {
  static const DeviceDescription cpu = describe_cpu(), cuda = describe_cuda();
  return kind == DeviceKind::Cpu ? cpu : cuda;
}

// ---- what callers who see only the name Backend can do with one

std::shared_ptr<void> allocate(Backend& backend, size_t bytes) {
  return backend.memory().allocate(bytes);
}

void copy_to_device(Backend& backend, Tensor dst, const void* src, CUstream_st* stream) {
  backend.memory().copy_in(dst, src, stream);
}

void copy_to_host(Backend& backend, void* dst, ConstTensor src, CUstream_st* stream) {
  backend.memory().read_back(dst, src, stream);
}

void make_current(Backend& backend) {
  backend.memory().make_current();
}

std::shared_ptr<CUstream_st> make_stream(Backend& backend) {
  return backend.memory().make_stream();
}

void observe_operations(Backend& backend, OpObserver observer) {
  backend.observe(std::move(observer));
}

}  // namespace switchyard
