// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/ranks.cc -- ranks: include/switchyard/communicator.h.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstring>

#include "bind.h"
#include "errors.h"
#include "host.h"

namespace switchyard::python {
namespace {

std::chrono::milliseconds milliseconds(double seconds) {
  if (!(seconds >= 0.001 && seconds <= 366 * 86400.0))
    refuse(Errc::ShapeMismatch, "deadline: seconds=", seconds,
           ", need 0.001 to a year. Pass how long a rank waits for its peers.");
  return std::chrono::milliseconds(std::llround(seconds * 1e3));
}

std::shared_ptr<HostCommunicator> held(std::unique_ptr<Communicator> communicator) {
  return std::make_shared<HostCommunicator>(std::move(communicator));
}

// What Python gathers: a sequence of `size` bytes objects as long as `mine`.
void gather_bytes(const nb::callable& gather, int size, void* all, const void* mine, size_t bytes) {
  const nb::gil_scoped_acquire locked;
  const nb::object given = gather(nb::bytes(mine, bytes));
  const auto parts = nb::cast<std::vector<nb::bytes>>(given);
  if (parts.size() != static_cast<size_t>(size))
    refuse(Errc::ShapeMismatch, "make_process_rank: gather gave ", parts.size(), " parts, need ",
           size, ". Return the bytes of every rank, in order.");
  for (size_t r = 0; r < parts.size(); ++r) {
    if (parts[r].size() != bytes)
      refuse(Errc::ShapeMismatch, "make_process_rank: gather gave ", parts[r].size(),
             " bytes of rank ", r, ", need ", bytes, ". Return what each rank passed.");
    std::memcpy(static_cast<char*>(all) + r * bytes, parts[r].data(), bytes);
  }
}

std::shared_ptr<HostCommunicator> process_rank(std::optional<int> rank, std::optional<int> size,
                                               const std::optional<nb::callable>& gather,
                                               double deadline, std::string address,
                                               std::string job, std::string secret) {
  if (rank.has_value() != gather.has_value() || size.has_value() != gather.has_value())
    refuse(Errc::Unsupported,
           "make_process_rank: rank, size and gather belong together. Pass all, "
           "or none to take them from RANK and WORLD_SIZE.");
  const ProcessRankOptions options{milliseconds(deadline), std::move(address), std::move(job),
                                   std::move(secret)};
  if (!gather) {
    if (const std::string warning = process_rank_warning(); !warning.empty())
      if (PyErr_WarnEx(PyExc_RuntimeWarning, warning.c_str(), 1) != 0) nb::raise_python_error();
    const nb::gil_scoped_release unlocked;
    return held(make_process_rank(options));
  }
  const auto callback = [&](void* all, const void* mine, size_t bytes) {
    gather_bytes(*gather, *size, all, mine, bytes);
  };
  const nb::gil_scoped_release unlocked;
  return held(make_process_rank(*rank, *size, callback, options));
}

std::vector<std::shared_ptr<HostCommunicator>> local_ranks(int num_ranks, double deadline) {
  std::vector<std::shared_ptr<HostCommunicator>> all;
  for (auto& communicator : make_local_ranks(num_ranks, {milliseconds(deadline)}))
    all.push_back(held(std::move(communicator)));
  return all;
}

}  // namespace

void bind_ranks(nb::module_& m) {
  nb::class_<HostCommunicator>(
      m, "Communicator",
      "One rank of a fixed set of them. One thread at a time uses it; layers that are made with it "
      "keep it. After a Transport error it is over, on every rank.")
      .def_prop_ro("rank", [](const HostCommunicator& c) { return c.get().rank(); })
      .def_prop_ro("size", [](const HostCommunicator& c) { return c.get().size(); })
      .def_prop_ro(
          "transport", [](const HostCommunicator& c) { return std::string(c.get().transport()); },
          "'threads', 'processes'.")
      .def_prop_ro(
          "failure_reason", [](const HostCommunicator& c) { return c.get().failure_reason(); },
          "Why it is over; '' while it works.")
      .def(
          "meet",
          [](const HostCommunicator& c) {
            const nb::gil_scoped_release unlocked;
            meet(c.get());
          },
          "Returns once every rank has come. Raises Transport if one is lost.")
      .def(
          "abort",
          [](const HostCommunicator& c, const std::string& reason) { c.get().abort(reason); },
          "reason"_a, "Ends the communicator for every rank, now. Not collective.");
  m.def(
      "make_process_rank", &process_rank, "rank"_a = nb::none(), "size"_a = nb::none(),
      "gather"_a = nb::none(), nb::kw_only(), "deadline"_a = 30.0, "address"_a = "127.0.0.1",
      "job"_a = "", "secret"_a = "",
      "This process's rank among processes that TCP connects. Collective.\n\n"
      "  rank, size, gather  together: gather(mine: bytes) returns the bytes of every rank, as a\n"
      "                      list; called once on every rank. None: RANK, WORLD_SIZE,\n"
      "                      MASTER_ADDR and MASTER_PORT, as torchrun sets them\n"
      "  deadline            seconds that a rank waits for its peers\n"
      "  address             how peers reach this process; with gather\n"
      "  job, secret         equal on every rank; see SECURITY.md\n\n"
      "Raises Transport when a peer does not come within the deadline.");
  m.def("make_local_ranks", &local_ranks, "num_ranks"_a, "deadline"_a = 30.0,
        "One Communicator for each of num_ranks threads of this process; element r is rank r.");
}

}  // namespace switchyard::python
