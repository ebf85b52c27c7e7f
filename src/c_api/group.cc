// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/group.cc -- ranks.
#include <vector>

#include "c_api/handles.h"
#include "c_api/versioned.h"
#include "switchyard/communicator.h"

namespace switchyard::c_api {
namespace {

swy_group_options default_group_options() {
  return {.size = sizeof(swy_group_options),
          .deadline_ms = ProcessRankOptions{}.deadline.count(),
          .address = nullptr};
}

ProcessRankOptions to_options(const char* op, const swy_group_options* given,
                              bool has_address = false) {
  const auto o = read_or(op, "options", given, default_group_options());
  check_range(op, "deadline_ms", o.deadline_ms, 1, INT32_MAX);  // 24 days
  SWITCHYARD_C_REQUIRE(has_address || o.address == nullptr, op, ": address=", o.address,
                       ", is for swy_group_create. Leave it NULL.");
  ProcessRankOptions options{.deadline = std::chrono::milliseconds(o.deadline_ms)};
  if (o.address != nullptr) options.address = o.address;
  return options;
}

std::unique_ptr<swy_group> group_of(std::unique_ptr<Communicator> communicator) {
  auto group = std::make_unique<swy_group>();
  group->communicator = std::move(communicator);
  return group;
}

GatherCallback callback_of(const char* op, swy_gather gather, void* user) {
  return [=](void* all, const void* mine, size_t bytes) {
    const int code = gather(user, all, mine, bytes);
    SWITCHYARD_REQUIRE(code == 0, Transport, op, ": gather returned ", code,
                       ", need 0. Look there for what failed.");
  };
}

}  // namespace
}  // namespace switchyard::c_api

extern "C" {

swy_status swy_group_options_init(swy_group_options* options, size_t size) {
  using namespace switchyard::c_api;
  return init("swy_group_options_init", options, size, default_group_options());
}

swy_status swy_group_create(int32_t rank, int32_t size, swy_gather gather, void* user,
                            const swy_group_options* options, swy_group** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_group_create";
    required(kOp, "gather", gather);
    required(kOp, "out", out);
    const auto o = to_options(kOp, options, true);
    *out = group_of(switchyard::make_process_rank(rank, size, callback_of(kOp, gather, user), o))
               .release();
  });
}

swy_status swy_group_create_from_env(const swy_group_options* options, swy_group** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_group_create_from_env";
    required(kOp, "out", out);
    *out = group_of(switchyard::make_process_rank(to_options(kOp, options))).release();
  });
}

swy_status swy_group_create_from_mpi(const swy_group_options* options, swy_group** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_group_create_from_mpi";
    required(kOp, "out", out);
    *out = group_of(switchyard::make_mpi_rank(to_options(kOp, options).deadline)).release();
  });
}

swy_status swy_group_create_threads(int32_t size, const swy_group_options* options,
                                    swy_group** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_group_create_threads";
    required(kOp, "out", out);
    const auto deadline = to_options(kOp, options).deadline;
    std::vector<std::unique_ptr<swy_group>> groups;
    for (auto& rank : switchyard::make_local_ranks(size, {deadline}))
      groups.push_back(group_of(std::move(rank)));
    for (auto& group : groups) *out++ = group.release();
  });
}

swy_status swy_group_place(const swy_group* group, int32_t* rank, int32_t* size) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_group_place";
    const auto& communicator = *handle(kOp, "group", group).communicator;
    int32_t& to_rank = required(kOp, "rank", rank);
    required(kOp, "size", size) = communicator.size();
    to_rank = communicator.rank();
  });
}

swy_status swy_group_meet(swy_group* group) {
  using namespace switchyard::c_api;
  return guarded([&] { switchyard::meet(*handle("swy_group_meet", "group", group).communicator); });
}

swy_status swy_group_abort(swy_group* group, const char* reason) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_group_abort";
    auto& communicator = *handle(kOp, "group", group).communicator;
    communicator.abort(&required(kOp, "reason", reason));
  });
}

void swy_group_destroy(swy_group* group) {
  switchyard::c_api::destroy(group);
}

}  // extern "C"
