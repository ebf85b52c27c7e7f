// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/nccl_library.cc
#include "comm/nccl_library.h"

#include "base/require.h"
#include "base/shared_library.h"
#include "comm/device_link.h"

namespace switchyard {
namespace {

struct Opened {
  SharedLibrary file{{"libnccl.so.2", "../nvidia/nccl/lib", SWITCHYARD_NCCL_FOLDER}};
  NcclLibrary functions{};

  Opened() {
    file.find("ncclGetVersion", functions.get_version);
    file.find("ncclGetUniqueId", functions.get_unique_id);
    file.find("ncclGetErrorString", functions.error_string);
    file.find("ncclGetLastError", functions.last_error);
    file.find("ncclCommInitRankConfig", functions.comm_init);
    file.find("ncclCommGetAsyncError", functions.comm_async_error);
    file.find("ncclCommFinalize", functions.comm_finalize);
    file.find("ncclCommDestroy", functions.comm_destroy);
    file.find("ncclCommAbort", functions.comm_abort);
    file.find("ncclGroupStart", functions.group_start);
    file.find("ncclGroupEnd", functions.group_end);
    file.find("ncclAllGather", functions.all_gather);
    file.find("ncclSend", functions.send);
    file.find("ncclRecv", functions.recv);
  }
};

const Opened& opened() {
  static const Opened once;
  return once;
}

}  // namespace

const NcclLibrary& nccl_library() {
  SWITCHYARD_REQUIRE(opened().file.is_open(), Unsupported, "nccl: ", opened().file.why_not(),
                     ". Install NCCL 2.19 or newer or name its folder in LD_LIBRARY_PATH, or use "
                     "ranks that reach each other's memory.");
  return opened().functions;
}

bool has_nccl() noexcept {
  try {
    return opened().file.is_open();
  } catch (...) {  // no memory; asked again, it looks again
    return false;
  }
}

}  // namespace switchyard
