// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/layer/agreement.h -- creation fails on every rank or on none.
#pragma once

#include <optional>

#include "layer/layer_plan.h"
#include "switchyard/communicator.h"

namespace switchyard {

// Collective; what ranks say here is memory of the host, whatever device the layer runs on. Throws
// this rank's own error if it has one; else that of the lowest rank that has; else ShapeMismatch
// with the first shared field that is not the same on every rank.
void agree_or_throw(const std::optional<Error>& mine, const LayerPlan& plan,
                    Communicator& communicator);

}  // namespace switchyard
