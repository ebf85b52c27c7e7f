// src/comm/device_ranks.h -- a communicator whose tensors are memory of devices that do not reach
// each other: rows are packed, travel over a link, and are unpacked, in stream order.
//
// Sizes that travel must be known to the host. Either they are the bound of the call, whatever the
// routing: every rank sends each other one a block of as many rows. Or the host reads the counts,
// which waits for the stream, and exactly the rows travel.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "base/backend.h"
#include "comm/device_link.h"
#include "ops/ops.h"
#include "plan/buffers.h"

namespace switchyard {

enum class RowSizes { Blocks, Exact };

class DeviceRanks final : public Communicator {
 public:
  // Of the ranks that `link` connects; others may have it, too. Borrows `host`, which introduced
  // them and says why they are lost.
  DeviceRanks(Communicator& host, std::shared_ptr<Backend> backend, RowSizes sizes,
              std::shared_ptr<DeviceLink> link);
  // Buffers that were lent may go then: no work over the link is left, also where others keep it.
  ~DeviceRanks() override { link_->finish_work(); }

  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  const char* transport() const override { return host_.transport(); }
  void all_gather(Tensor dst, ConstTensor src, CUstream_st* stream) override;
  // At most three transfers, of the widths of the buffers that were lent last. counts are on the
  // device. Throws Unsupported with Exact on a stream that is being captured.
  void all_to_all_rows(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                       ConstTensor counts, CUstream_st* stream) override;
  // Over the same link.
  std::unique_ptr<Communicator> split(int color) override;
  bool shares_process() const override { return host_.shares_process(); }
  std::chrono::milliseconds deadline() const override { return host_.deadline(); }
  std::string failure_reason() const override { return host_.failure_reason(); }
  std::shared_ptr<void> when_over(const std::function<void()>& ended) override {
    return host_.when_over(ended);
  }
  void abort(const std::string& reason) noexcept override { host_.abort(reason); }

  // all_gather together with the next call that moves anything, as one call of the link.
  void gather_along(Tensor dst, ConstTensor src, CUstream_st* stream);
  // Such a call that moves nothing else.
  void exchange(CUstream_st* stream);
  // For the all_to_all_rows that follow: [P * block, W] each, with the call's bound as the block.
  // Exact needs no `arrived`.
  void lend(const RowBlocks& sent, const RowBlocks& arrived);
  // dst[s * block + i, :] = src[rank * block + i, :] of rank s; both [P * block, W]. As they are,
  // nothing is packed.
  void swap_blocks(Tensor dst, ConstTensor src, CUstream_st* stream);

  // Not 0 once a peer is lost; the device reads it.
  const int32_t* ended() const { return link_->ended(); }
  void expect(CUstream_st* stream) { link_->expect(stream); }
  // Throws Unsupported where sizes that the host reads cannot be had.
  void check_stream(CUstream_st* stream) const;
  // Which ranks are missing, once work did not end in time and the host's communicator knows
  // nothing: ranks that are there meet on the host, up to the deadline.
  std::string find_missing_ranks();

 private:
  DeviceRanks(std::unique_ptr<Communicator> own_host, const DeviceRanks& parent);

  template <class F>
  void while_open(F enqueue);
  template <class F>
  void for_others(F f) const;
  [[noreturn]] void give_up(const std::string& seen);
  void swap(std::span<const RowTransfer> transfers, ConstTensor send_rows, ConstTensor counts,
            CUstream_st* stream);
  void send_exactly(std::span<const RowTransfer> transfers, ConstTensor send_rows,
                    ConstTensor counts, CUstream_st* stream);
  void send(int to, const void* data, int64_t bytes);
  void receive(int from, void* data, int64_t bytes);
  void add_blocks(Tensor dst, ConstTensor src);
  void add_rows(Tensor dst, ConstTensor src, CUstream_st* stream);
  void forget();

  std::unique_ptr<Communicator> own_host_;  // of a split
  Communicator& host_;
  std::shared_ptr<Backend> backend_;
  RowSizes sizes_;
  std::shared_ptr<DeviceLink> link_;
  std::vector<int32_t> members_;  // this communicator's ranks, as the link counts them
  std::array<Tensor, 3> sent_, arrived_;
  std::vector<int32_t> counts_;  // exact: [P, P]
  std::vector<Gather> gathers_;  // not enqueued yet, as the parcels
  std::vector<OutgoingParcel> out_;
  std::vector<IncomingParcel> in_;
};

}  // namespace switchyard
