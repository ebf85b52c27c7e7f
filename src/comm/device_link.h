// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/device_link.h -- what moves bytes between the memory of ranks' devices, in the order of
// a stream. NCCL is one; tests have their own.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/backend.h"
#include "switchyard/communicator.h"

namespace switchyard {

// Bytes for a rank, or from one; never none, and never this rank's own.
template <class Void>
struct Parcel {
  int peer = 0;
  Void* data = nullptr;
  int64_t bytes = 0;
};
using OutgoingParcel = Parcel<const void>;
using IncomingParcel = Parcel<void>;

// dst[r, ...] = src of rank r; equal bytes on every rank, at least one.
struct Gather {
  Tensor dst;
  ConstTensor src;
};

// Collective calls, enqueued. They throw Error(Transport) once the link is over.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;
  // All at once, of a rank that has no parcel, too. Gathers are the same on every rank; between two
  // ranks parcels come in the order in which both name them, of the same sizes.
  virtual void exchange(std::span<const Gather> gathers, std::span<const OutgoingParcel> out,
                        std::span<const IncomingParcel> in, CUstream_st* stream) = 0;
  // From here on what is on the stream counts as late after the deadline. Not collective.
  virtual void expect(CUstream_st* stream) = 0;
  // Waits until everything that is expected has ended, or the link is over, which ends it.
  virtual void finish_work() noexcept = 0;
  virtual bool is_capturing(CUstream_st* stream) = 0;
  // Throws Error(Transport) with the reason once the link is over.
  virtual void require_open() = 0;
  // Not 0 once the link is over; the device reads it too. The thread that finds it over sets the
  // word, before work that waits for peers ends.
  virtual const int32_t* ended() const = 0;
};

// NCCL between the ranks of `host`: one communicator of NCCL for all layers of it and a device.
//
// Collective. Throws Error(Unsupported) on every rank where NCCL cannot be: this build has none,
// versions differ, two ranks share a GPU; Transport when a rank does not come.
std::shared_ptr<DeviceLink> make_nccl_link(Communicator& host,
                                           const std::shared_ptr<Backend>& backend);

}  // namespace switchyard
