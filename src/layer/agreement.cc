// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/agreement.cc
#include "layer/agreement.h"

#include <string>
#include <vector>

#include "base/require.h"

namespace switchyard {
namespace {

// FNV-1a: the same on every rank, unlike std::hash, which may differ between builds.
int32_t fingerprint(const std::string& text) {
  uint32_t hash = 2166136261u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return static_cast<int32_t>(hash);
}

}  // namespace

void agree_or_throw(const std::optional<Error>& mine, const LayerPlan& plan,
                    Communicator& communicator) {
  const auto num_ranks = static_cast<size_t>(communicator.size());
  if (num_ranks > 1) {
    std::vector<const char*> names{"error"};
    std::vector<int32_t> said{mine ? static_cast<int32_t>(mine->code()) : 0};
    for_each_shared_field(plan, [&](const char* name, const auto& value) {
      names.push_back(name);
      said.push_back(fingerprint(cat(value)));
    });
    const size_t width = said.size();
    std::vector<int32_t> all(num_ranks * width);
    communicator.all_gather(Tensor(all.data(), {communicator.size(), static_cast<int64_t>(width)}),
                            ConstTensor(said.data(), {static_cast<int64_t>(width)}), nullptr);
    for (size_t r = 0; r < num_ranks && !mine; ++r)
      if (const auto code = static_cast<Errc>(all[r * width]); all[r * width] != 0)
        throw Error(code, cat("create: rank ", r, " refused its arguments (", errc_name(code),
                              "). See the error thrown there."));
    for (size_t r = 0; r < num_ranks && !mine; ++r)
      for (size_t f = 1; f < width; ++f)
        SWITCHYARD_REQUIRE(all[r * width + f] == all[f], ShapeMismatch, "create: ", names[f],
                           " of rank ", r,
                           " differs from that of rank 0, it must be equal on every rank. Pass the "
                           "same config and options.");
  }
  if (mine) throw *mine;
}

}  // namespace switchyard
