// include/switchyard/phase.h -- public: the parts of a forward, in their order.
#pragma once

namespace switchyard {

enum class Phase { Gate, Dispatch, Experts, Combine };

}  // namespace switchyard
