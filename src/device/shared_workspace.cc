// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/device/shared_workspace.cc
#include <mutex>

#include "base/backend.h"
#include "base/require.h"
#include "device/memory.h"

namespace switchyard {

struct SharedWorkspace::State {
  std::shared_ptr<Backend> backend;
  std::mutex mutex;
  OwnedWorkspace newest;
};

SharedWorkspace::SharedWorkspace(std::shared_ptr<Backend> backend, size_t bytes)
    : state_(std::make_unique<State>()) {
  SWITCHYARD_REQUIRE(backend, ShapeMismatch,
                     "shared_workspace: backend is null, need the one of the layers. Make one.");
  state_->backend = std::move(backend);
  if (bytes > 0) reserve(bytes);
}

SharedWorkspace::~SharedWorkspace() = default;

OwnedWorkspace SharedWorkspace::reserve(size_t bytes) {
  const std::lock_guard lock(state_->mutex);
  OwnedWorkspace& newest = state_->newest;
  if (newest.workspace.bytes < bytes) {
    auto memory = state_->backend->memory().allocate(bytes);
    newest = {{memory.get(), bytes}, memory};
  }
  return newest;
}

size_t SharedWorkspace::bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->newest.workspace.bytes;
}

}  // namespace switchyard
