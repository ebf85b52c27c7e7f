// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/c_api/checkpoint.cc -- layers of checkpoint folders.
#include "switchyard/checkpoint.h"

#include <algorithm>

#include "c_api/config.h"
#include "c_api/handles.h"
#include "c_api/versioned.h"

extern "C" {

swy_status swy_checkpoint_create(const char* directory, const char* layer_json,
                                 swy_checkpoint** out) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_checkpoint_create";
    required(kOp, "directory", directory);
    required(kOp, "out", out);
    auto checkpoint = std::make_unique<swy_checkpoint>();
    checkpoint->checkpoint =
        switchyard::Checkpoint::open(directory, layer_json == nullptr ? "" : layer_json);
    *out = checkpoint.release();
  });
}

swy_status swy_checkpoint_layers(const swy_checkpoint* checkpoint, int64_t* layers,
                                 int64_t capacity, int64_t* count) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_checkpoint_layers";
    const auto& all = handle(kOp, "checkpoint", checkpoint).checkpoint->moe_layers();
    check_range(kOp, "capacity", capacity, 0, INT64_MAX);
    if (capacity > 0) required(kOp, "layers", layers);
    required(kOp, "count", count) = static_cast<int64_t>(all.size());
    std::copy_n(all.begin(), std::min<int64_t>(capacity, *count), layers);
  });
}

swy_status swy_checkpoint_config(const swy_checkpoint* checkpoint, int64_t layer,
                                 swy_config* config) {
  using namespace switchyard::c_api;
  return guarded([&] {
    constexpr const char* kOp = "swy_checkpoint_config";
    const auto& of = *handle(kOp, "checkpoint", checkpoint).checkpoint;
    check_output(kOp, "config", config);
    write(*config, from_config(of.config(layer)), config->size);
  });
}

void swy_checkpoint_destroy(swy_checkpoint* checkpoint) {
  switchyard::c_api::destroy(checkpoint);
}

}  // extern "C"
