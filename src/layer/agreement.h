// src/layer/agreement.h -- creation fails on every rank or on none.
#pragma once

#include <optional>
#include <string>

#include "switchyard/communicator.h"
#include "switchyard/error.h"

namespace switchyard {

// Collective; what ranks say here is memory of the host, whatever device the layer runs on. Throws
// this rank's own error if it has one; else that of the lowest rank that has; else ShapeMismatch if
// `shared_facts` is not the same text on every rank.
void agree_or_throw(const std::optional<Error>& mine, const std::string& shared_facts,
                    Communicator& communicator);

}  // namespace switchyard
