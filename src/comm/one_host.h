// src/comm/one_host.h -- whether ranks could reach each other's memory at all.
#pragma once

#include "switchyard/communicator.h"

namespace switchyard {

// Collective: the same answer on every rank. What ranks say here is memory of the host.
bool are_on_one_host(Communicator& communicator);

}  // namespace switchyard
