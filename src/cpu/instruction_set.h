// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cpu/instruction_set.h -- what the fast forms run with: the best instruction set that is built
// and that the machine has, unless a test or a benchmark pins another.
#pragma once

#include <string>
#include <vector>

namespace switchyard::cpu {

// What can be pinned here, best first, by Highway's names; AVX3 is AVX-512.
std::vector<std::string> instruction_sets();
std::string instruction_set();  // the one in use

// For the whole process, while no operation runs. Throws Unsupported for what is not listed.
void pin_instruction_set(const std::string& name);
void unpin_instruction_set();

}  // namespace switchyard::cpu
