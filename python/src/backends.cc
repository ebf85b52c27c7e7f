// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/backends.cc -- backends and shared workspaces: include/switchyard/backend.h.
#include <nanobind/stl/shared_ptr.h>
#include <pthread.h>

#include <atomic>

#include "bind.h"
#include "errors.h"
#include "host.h"

namespace switchyard::python {
namespace {

std::atomic<int> forks{0};

}  // namespace

int fork_generation() {
  return forks.load(std::memory_order_relaxed);
}
void watch_forks() {
  pthread_atfork(nullptr, nullptr, [] { ++forks; });
}

HostBackend::HostBackend(std::shared_ptr<Backend> backend, DeviceIndex device)
    : backend_(std::move(backend)), device_(device), generation_(fork_generation()) {}

HostBackend::~HostBackend() {
  if (generation_ != fork_generation()) new std::shared_ptr<Backend>(std::move(backend_));
}

const std::shared_ptr<Backend>& HostBackend::use(const char* operation) const {
  if (generation_ != fork_generation())
    refuse(Errc::Unsupported, operation, ": the process was forked after the backend was made, ",
           "whose threads stayed in the parent. Make it after the fork, or spawn processes.");
  return backend_;
}

std::shared_ptr<HostBackend> make_backend(DeviceIndex device, int num_threads, int num_sms) {
  std::shared_ptr<Backend> backend =
      device.kind == DeviceKind::Cuda
          ? make_cuda_backend({.num_sms = num_sms, .device = device.index})
          : make_cpu_backend(num_threads);
  return std::make_shared<HostBackend>(std::move(backend), device);
}

void bind_backends(nb::module_& m) {
  nb::class_<HostBackend>(
      m, "Backend",
      "Memory and operations of one device, with its threads. Share one between the layers of a "
      "model; one thread at a time calls them.")
      .def_prop_ro(
          "device", [](const HostBackend& b) { return describe(b.device()); }, "'cpu', 'cuda:0'.");
  m.def(
      "make_cpu_backend", [](int num_threads) { return make_backend({}, num_threads, 0); },
      "num_threads"_a = 0,
      "Threads in all, the caller's included; 0: one per core. Raises ShapeMismatch for a number "
      "of "
      "threads that no machine has.");
  m.def(
      "make_cuda_backend",
      [](int device, int num_sms) {
        return make_backend({DeviceKind::Cuda, device}, 0, num_sms);
      },
      "device"_a = 0, "num_sms"_a = 0,
      "CUDA device of this index, which becomes the calling thread's current one. num_sms: "
      "streaming "
      "multiprocessors that the grouped GEMMs may use; 0: all. Raises Unsupported where this build "
      "or "
      "machine has none.");
  nb::class_<HostWorkspace>(m, "SharedWorkspace",
                            "One workspace for layers whose calls follow each other, as those of a "
                            "model do. It has the size "
                            "of the largest that was asked for.")
      .def(
          "__init__",
          [](HostWorkspace* self, std::shared_ptr<HostBackend> backend, size_t bytes) {
            auto shared = std::make_shared<SharedWorkspace>(backend->use("SharedWorkspace"), bytes);
            new (self) HostWorkspace{std::move(backend), std::move(shared)};
          },
          "backend"_a, "bytes"_a = 0,
          "Raises Unsupported with the bytes when there is no such memory.")
      .def_prop_ro("bytes", [](const HostWorkspace& w) { return w.shared->bytes(); });
}

}  // namespace switchyard::python
