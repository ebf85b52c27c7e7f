// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/weights_of_slots.cc -- experts in the order of a placement.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "base/arena.h"
#include "base/require.h"
#include "switchyard/weights.h"

namespace switchyard {
namespace {

// Tensors that have a part for each expert.
std::array<ConstTensor*, 6> by_expert(ExpertWeights& w) {
  return {&w.w1, &w.w2, &w.b1, &w.b2, &w.w1_scales.values, &w.w2_scales.values};
}

// Room for `num_slots` parts of each; over an empty arena that gives the size.
std::array<Tensor, 6> take(Arena& arena, ExpertWeights w, int64_t num_slots) {
  std::array<Tensor, 6> taken;
  const auto tensors = by_expert(w);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i]->present()) continue;
    const ConstTensor& t = *tensors[i];
    taken[i] = arena.take(t.dtype, t.rows(0, num_slots).shape);
  }
  return taken;
}

void copy_part(Tensor dst, int64_t slot, ConstTensor src, int64_t expert) {
  const Tensor part = dst.rows(slot, 1);
  if (expert < 0)
    std::memset(part.data, 0, static_cast<size_t>(part.bytes()));
  else
    std::memcpy(part.data, src.rows(expert, 1).data, static_cast<size_t>(part.bytes()));
}

}  // namespace

LayerWeights weights_of_slots(const LayerWeights& all, std::span<const int32_t> expert_of_slot) {
  const int64_t num_experts = all.experts.w1.shape.rank() > 0 ? all.experts.w1.dim(0) : 0;
  for (const int32_t expert : expert_of_slot)
    SWITCHYARD_REQUIRE(expert >= -1 && expert < num_experts, ShapeMismatch,
                       "weights_of_slots: expert=", expert, ", there are weights of ", num_experts,
                       " or -1 for none. Pass the weights of all experts.");
  const auto num_slots = static_cast<int64_t>(expert_of_slot.size());
  Arena size({});
  take(size, all.experts, num_slots);
  const size_t bytes = std::max(size.bytes(), Workspace::kAlignment);
  const std::shared_ptr<void> memory(std::aligned_alloc(Workspace::kAlignment, bytes), std::free);
  SWITCHYARD_REQUIRE(memory != nullptr, Unsupported, "weights_of_slots: bytes=", bytes,
                     ", cannot be allocated. Use more ranks or fewer slots.");
  Arena arena({memory.get(), bytes});
  LayerWeights placed = all;
  placed.experts.num_slots = num_slots;
  const auto dst = take(arena, all.experts, num_slots);
  const auto tensors = by_expert(placed.experts);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i]->present()) continue;
    for (int64_t s = 0; s < num_slots; ++s)
      copy_part(dst[i], s, *tensors[i], expert_of_slot[static_cast<size_t>(s)]);
    *tensors[i] = dst[i];
  }
  placed.owner = std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<void>>>(
      all.owner, memory);
  return placed;
}

}  // namespace switchyard
