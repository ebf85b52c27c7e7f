// src/strategy/gemms.h -- the configurations that the grouped GEMMs of a strategy take, in words.
#pragma once

#include <string>

#include "switchyard/strategy.h"

namespace switchyard {

// Hopper's two grouped GEMMs at the request's capacity, as grouped_gemm chooses them; hybrid: of
// either layout at its bound, where they differ. Empty where no row can come. The request's sizes
// were checked.
std::string describe_gemms(DispatcherKind dispatcher, ExecutorKind executor,
                           const StrategyRequest& request);

}  // namespace switchyard
