// src/weights/moe_keys.h -- every key of a config.json that changes an MoE block's numbers, in all
// its published spellings, and what each says about the block that is computed.
#pragma once

#include <string_view>
#include <vector>

#include "weights/family.h"

namespace switchyard {

// Throws Error(Unsupported) with key, value and what is computed, for the first key of `config`
// that says something else than `layers`. Null means "none of it". Keys that are not known are not
// looked at.
void check_moe_keys(const ConfigReader& config, std::string_view family,
                    const FamilyLayers& layers);

// All of them, in order.
std::vector<std::string_view> moe_keys();

}  // namespace switchyard
