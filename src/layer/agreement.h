// src/layer/agreement.h -- creation fails on every rank or on none.
#pragma once

#include <optional>
#include <string>

#include "base/backend.h"
#include "switchyard/communicator.h"
#include "switchyard/error.h"

namespace switchyard {

// Collective. Throws this rank's own error if it has one; else that of the lowest rank that has;
// else ShapeMismatch if `shared_facts` is not the same text on every rank.
void agree_or_throw(const std::optional<Error>& mine, const std::string& shared_facts,
                    Communicator& communicator, Backend& backend);

}  // namespace switchyard
