// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/row_transport.h -- how rows and words of dispatchers travel in messages, in the order of a
// stream: the data plane. Communicators introduce ranks to each other, agree, and say who is lost.
#pragma once

#include <memory>
#include <string>

#include "plan/buffers.h"
#include "switchyard/communicator.h"

namespace switchyard {

// Rows for every rank, and those that arrive, by source rank. The parts of a row travel alike.
struct RowExchange {
  RowParts dst;             // at least the rows received
  ConstRowParts src;        // at least the rows sent
  RowBlocks blocks;         // room of a link, [P * block, W]: block is the call's bound
  ConstTensor send_rows{};  // i32 [S] or absent: row number i for a rank is src[send_rows[i]]
  ConstTensor counts;       // i32 [P, P] rows from one to another, in memory of the device
};

// Every operation but what is said not to be is collective, as those of a communicator.
class RowTransport {
 public:
  virtual ~RowTransport() = default;
  virtual int size() const = 0;

  // dst[r, ...] = src of rank r, by the next `send` or exchange: several may be one piece of work.
  virtual void gather(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;
  virtual void send(CUstream_st* stream) = 0;
  virtual void exchange_rows(const RowExchange& rows, CUstream_st* stream) = 0;
  // dst[s * block + i, :] = src[rank * block + i, :] of rank s; both [P * block, W].
  virtual void swap_blocks(Tensor dst, ConstTensor src, CUstream_st* stream) = 0;
  // Of the ranks that give the same color.
  virtual std::unique_ptr<RowTransport> split(int color) = 0;

  // Not collective: what Dispatcher's functions of these names do.
  virtual void check_stream(CUstream_st*) const {}
  virtual void before_wait(CUstream_st*) {}
  virtual std::string why_lost() { return {}; }
  // After the last exchange, and before counts are taken for true: what came means nothing if a peer
  // was lost meanwhile.
  virtual void note_lost(Tensor, CUstream_st*) {}
};

// Between memory of hosts. Borrows the communicator.
std::unique_ptr<RowTransport> make_host_transport(Communicator& communicator);

}  // namespace switchyard
