// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// tests/testing/host_link.h -- a link between ranks on the host, as NCCL is one between GPUs: what
// packs and unpacks rows for it can be tested without one.
#pragma once

#include <numeric>
#include <vector>

#include "base/require.h"
#include "comm/device_link.h"

namespace switchyard::testing {

class HostLink final : public DeviceLink {
 public:
  explicit HostLink(Communicator& host) : host_(host) {}

  // Refuses parcels of which the two ranks name different sizes.
  void exchange(std::span<const Gather> gathers, std::span<const OutgoingParcel> out,
                std::span<const IncomingParcel> in, CUstream_st*) override {
    require_open();
    for (const auto& [dst, src] : gathers) host_.all_gather(dst, src, nullptr);
    const auto n = static_cast<size_t>(host_.size()), me = static_cast<size_t>(host_.rank());
    std::vector<int32_t> mine(n), counts(n * n), sent, received;
    for (size_t p = 0; p < n; ++p)
      for (const auto& parcel : out)
        if (parcel.peer == static_cast<int>(p)) {
          const auto* words = static_cast<const int32_t*>(parcel.data);
          sent.insert(sent.end(), words, words + parcel.bytes / 4);
          mine[p] += static_cast<int32_t>(parcel.bytes / 4);
        }
    const Shape square{host_.size(), host_.size()};
    host_.all_gather(Tensor(counts.data(), square), ConstTensor(mine.data(), {host_.size()}),
                     nullptr);
    for (size_t p = 0; p < n; ++p) received.resize(received.size() + size_t(counts[p * n + me]));
    const auto column = [](auto& v) { return Shape{static_cast<int64_t>(v.size()), 1}; };
    const RowTransfer transfer{Tensor(received.data(), column(received)),
                               ConstTensor(sent.data(), column(sent))};
    host_.all_to_all_rows({&transfer, 1}, {}, ConstTensor(counts.data(), square), nullptr);
    const int32_t* from = received.data();
    for (size_t p = 0; p < n; ++p) {
      int64_t words = 0;
      for (const auto& parcel : in)
        if (parcel.peer == static_cast<int>(p)) {
          SWITCHYARD_REQUIRE(words + parcel.bytes / 4 <= counts[p * n + me], ShapeMismatch,
                             "exchange: rank ", p, " sends less than is expected.");
          std::copy_n(from + words, parcel.bytes / 4, static_cast<int32_t*>(parcel.data));
          words += parcel.bytes / 4;
        }
      SWITCHYARD_REQUIRE(words == counts[p * n + me], ShapeMismatch, "exchange: rank ", p,
                         " sends more than is expected.");
      from += words;
    }
    if (exchanges_to != nullptr) ++*exchanges_to;
    words_sent_ += std::accumulate(mine.begin(), mine.end(), int64_t{0});
    if (words_sent_to != nullptr) *words_sent_to = words_sent_;
  }

  void expect(CUstream_st*) override {}
  void finish_work() noexcept override {}
  bool is_capturing(CUstream_st*) override { return capturing; }
  const int32_t* ended() const override { return &is_over; }
  void require_open() override { SWITCHYARD_REQUIRE(is_over == 0, Transport, "the link is over."); }

  bool capturing = false;
  int32_t is_over = 0;
  int64_t* exchanges_to = nullptr;   // if anybody wants to know: how many there were
  int64_t* words_sent_to = nullptr;  // if anybody wants to know: in all exchanges

 private:
  Communicator& host_;
  int64_t words_sent_ = 0;
};

}  // namespace switchyard::testing
