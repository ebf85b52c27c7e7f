// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/plan/slot_tables.h -- from an expert to one of its weight slots, as arithmetic that host and
// device share.
#pragma once

#include "plan/index.h"
#include "switchyard/placement.h"

namespace switchyard {

// SlotTables as code that reads them sees them. Null: absent.
struct SlotsView {
  const int32_t* active = nullptr;
  const int32_t* tables = nullptr;
  int64_t* loads = nullptr;
  int32_t num_experts = 0, table_size = 0;
  bool by_token = false;

  SlotsView() = default;
  explicit SlotsView(const SlotTables& t)
      : active(t.active.present() ? t.active.as<int32_t>() : nullptr),
        tables(t.active.present() ? t.tables.as<int32_t>() : nullptr),
        loads(t.loads.present() ? t.loads.as<int64_t>() : nullptr),
        num_experts(static_cast<int32_t>(t.num_experts)),
        table_size(t.active.present() ? static_cast<int32_t>(t.tables.dim(1)) : 0),
        by_token(t.by_token) {}
};

// Every bit depends on every bit. Source: MurmurHash3's finalizer.
constexpr uint32_t mix_bits(uint32_t x) {
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

// Which of `count` replicas a key chooses: as often each, if keys are many.
constexpr int32_t choose_replica(int32_t expert, uint32_t key, int32_t count) {
  const uint32_t hash = mix_bits(mix_bits(key) + static_cast<uint32_t>(expert));
  return static_cast<int32_t>(uint64_t{hash} * static_cast<uint32_t>(count) >> 32);
}

// The weight slot of an id under the table in use. Of ids that are no expert -1 stays, and others are
// out of every range.
constexpr int32_t slot_of(const SlotsView& view, int32_t id, uint32_t key) {
  if (!is_expert(id, view.num_experts)) return id == -1 ? -1 : INT32_MIN;
  const int32_t* table = view.tables + int64_t{view.active[0] & 1} * view.table_size;
  const int32_t first = table[id];
  return table[view.num_experts + 1 + first + choose_replica(id, key, table[id + 1] - first)];
}

}  // namespace switchyard
