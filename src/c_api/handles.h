// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/handles.h -- what stands behind the opaque handles. What a layer needs it shares, so handles are destroyed
// in any order.
#pragma once

#include <memory>

#include "c_api/call.h"
#include "switchyard/checkpoint.h"
#include "switchyard/layer.h"
#include "switchyard/linear_attention.h"

namespace switchyard::c_api {

// The first word of a handle: languages without types mix them up.
enum class HandleKind : uint64_t {
  Destroyed = 0,
  Context = 0x73777963'00000001,
  Memory,
  Group,
  Weights,
  SharedWorkspace,
  Layer,
  Attention,
  Checkpoint,
};

template <HandleKind kOwn>
struct Handle {
  static constexpr HandleKind kKind = kOwn;
  HandleKind kind = kOwn;
};

template <class T>
T& handle(const char* operation, const char* name, T* given) {
  SWITCHYARD_C_REQUIRE(required(operation, name, given).kind == std::remove_const_t<T>::kKind,
                       operation, ": ", name,
                       " is a handle of another kind, or destroyed. Pass one of its own type.");
  return *given;
}

// Of another kind: left alone, since it is not ours to free.
template <class T>
void destroy(T* given) noexcept {
  if (given == nullptr || given->kind != T::kKind) return;
  given->kind = HandleKind::Destroyed;
  delete given;
}

}  // namespace switchyard::c_api

struct swy_context : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Context> {
  std::shared_ptr<switchyard::Backend> backend;
  switchyard::DeviceKind device = switchyard::DeviceKind::Cpu;
};

struct swy_memory : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Memory> {
  std::shared_ptr<switchyard::Backend> backend;
  std::shared_ptr<void> memory;
};

struct swy_group : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Group> {
  std::shared_ptr<switchyard::Communicator> communicator;
};

struct swy_weights : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Weights> {
  switchyard::LayerWeights weights;
};

struct swy_shared_workspace
    : switchyard::c_api::Handle<switchyard::c_api::HandleKind::SharedWorkspace> {
  std::shared_ptr<switchyard::SharedWorkspace> workspace;
};

struct swy_layer : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Layer> {
  std::shared_ptr<switchyard::Communicator> communicator;  // null: one rank
  std::unique_ptr<switchyard::MoeLayer> layer;             // destroyed first
};

struct swy_attention : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Attention> {
  int64_t max_batch = 0;
  std::unique_ptr<switchyard::LinearAttention> attention;
};

struct swy_checkpoint : switchyard::c_api::Handle<switchyard::c_api::HandleKind::Checkpoint> {
  std::unique_ptr<switchyard::Checkpoint> checkpoint;
};
