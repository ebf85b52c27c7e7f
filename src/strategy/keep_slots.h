// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/strategy/keep_slots.h -- a new placement keeps experts where they are, as far as nothing else
// changes.
#pragma once

#include <cstdint>
#include <span>

namespace switchyard {

// Reorders `slots`, the expert in each weight slot of a layer, towards `now`, what they hold (-1: none).
// `parts` are nested: into so many equal blocks the slots are divided, each of those into as many as
// the next number says, and so on. Blocks trade places with their neighbours within one block of the
// level above: those that have the most experts in common with what is there come first, of equal
// ones the first. At most 2^22 common experts of a level are looked at.
void keep_slots(std::span<int32_t> slots, std::span<const int32_t> now,
                std::span<const int64_t> parts);

}  // namespace switchyard
