// src/comm/stream_comm.h -- a communicator over byte streams.
#pragma once

#include <chrono>
#include <memory>

#include "comm/streams.h"
#include "switchyard/communicator.h"

namespace switchyard {

std::unique_ptr<Communicator> make_stream_comm(std::unique_ptr<Streams> streams,
                                               std::chrono::milliseconds deadline);

}  // namespace switchyard
