// src/strategy/cost_model.h -- what a strategy is predicted to take, from sizes and the device's
// rates.
#pragma once

#include "switchyard/strategy.h"

namespace switchyard {

// Microseconds of one call at the request's capacity, an even gate assumed. Pure.
double predict_us(DispatcherKind dispatcher, ExecutorKind executor, GemmProvider provider,
                  const StrategyRequest& request);

}  // namespace switchyard
