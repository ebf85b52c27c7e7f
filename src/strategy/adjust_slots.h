// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/adjust_slots.h -- a placement that runs, with as few changes as even it out.
#pragma once

#include <cstdint>
#include <span>

#include "strategy/exchange_slots.h"

namespace switchyard {

// Changes `slots`, each of which holds an expert and no rank one twice, until no rank has more than
// `target` to do, and says whether that was reached. loads: [E]; replicas share that of their expert.
// A change is the one that helps the busiest rank
// most: two ranks of a node exchange a replica, or a slot of an expert with several gets another
// replica of an expert of the busiest rank. At most 2^24 pairs are looked at.
bool adjust_slots(std::span<int32_t> slots, std::span<const double> loads, SlotShape shape,
                  double target);

}  // namespace switchyard
