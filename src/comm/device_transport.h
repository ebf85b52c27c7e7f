// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/device_transport.h -- rows between memory of devices that do not reach each other: packed,
// sent over a link, unpacked, in stream order.
//
// Sizes that travel must be known to the host. Either they are the bound of the call, whatever the
// routing: every rank sends each other one a block of as many rows. Or the host reads the counts,
// which waits for the stream, and exactly the rows travel.
#pragma once

#include <array>
#include <memory>
#include <numeric>
#include <vector>

#include "base/backend.h"
#include "comm/device_link.h"
#include "comm/handshake.h"
#include "comm/row_transport.h"
#include "device/memory.h"
#include "ops/ops.h"

namespace switchyard {

enum class RowSizes { Blocks, Exact };

class DeviceTransport final : public RowTransport {
 public:
  // Of the ranks that `link` connects; others may have it, too. Borrows `host`, which introduced
  // them and says why they are lost.
  DeviceTransport(Communicator& host, std::shared_ptr<Backend> backend, RowSizes sizes,
                  std::shared_ptr<DeviceLink> link)
      : host_(host),
        backend_(std::move(backend)),
        sizes_(sizes),
        link_(std::move(link)),
        members_(size()) {
    std::iota(members_.begin(), members_.end(), 0);
    // No call allocates.
    const auto num_ranks = static_cast<size_t>(size());
    counts_.resize(num_ranks * num_ranks);
    gathers_.reserve(1 + kMaxRowParts);  // headers, and the parts of a row
    out_.reserve(kMaxRowParts * num_ranks);
    in_.reserve(kMaxRowParts * num_ranks);
  }
  // Buffers that were lent may go then: no work over the link is left, also where others keep it.
  ~DeviceTransport() override { link_->finish_work(); }

  int size() const override { return host_.size(); }

  // One call of the link with the next that moves anything.
  void gather(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    if (src.bytes() == 0) return;
    if (!own_host_) return gathers_.push_back({dst, src});
    // The link gathers from all its ranks; these are some of them.
    const auto part = [&](int r) { return static_cast<std::byte*>(dst.data) + r * src.bytes(); };
    backend_->ops().run(Copy{Tensor(part(rank()), src.dtype, src.shape, dst.device), src}, stream);
    for_others([&](int to, int from) {
      send_to(to, src.data, src.bytes());
      receive(from, part(from), src.bytes());
    });
  }
  void send(CUstream_st* stream) override {
    while_open([&] { link_->exchange(gathers_, out_, in_, stream); });
    forget();
  }
  // Exact needs no blocks.arrived, and throws Unsupported on a stream that is being captured.
  void exchange_rows(const RowExchange& rows, CUstream_st* stream) override {
    sizes_ == RowSizes::Exact ? send_exactly(rows, stream) : send_blocks(rows, stream);
  }
  // As they are: nothing is packed.
  void swap_blocks(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    const int64_t block = src.dim(0) / size();
    if (block == 0) return send(stream);
    backend_->ops().run(Copy{dst.rows(rank() * block, block), src.rows(rank() * block, block)},
                        stream);
    add_blocks(dst, src);
    send(stream);
  }
  // Over the same link.
  std::unique_ptr<RowTransport> split(int color) override {
    return std::unique_ptr<RowTransport>(new DeviceTransport(host_.split(color), *this));
  }

  void note_lost(Tensor status, CUstream_st* stream) override {
    backend_->ops().run(NoteEnded{status, link_->ended(), rank()}, stream);
  }
  void before_wait(CUstream_st* stream) override { link_->expect(stream); }
  // Throws Unsupported where sizes that the host reads cannot be had.
  void check_stream(CUstream_st* stream) const override {
    SWITCHYARD_REQUIRE(
        sizes_ == RowSizes::Blocks || !link_->is_capturing(stream), Unsupported,
        "dispatch: host_counts=on over NCCL, a graph that captures this stream cannot "
        "wait for counts. Create the layer without host_counts.");
  }
  // Which ranks are missing, once work did not end in time and the host's communicator knows
  // nothing: ranks that are there meet on the host, up to the deadline.
  std::string why_lost() override {
    try {
      meet(host_);
    } catch (const Error& e) {
      return e.what();
    }
    std::string seen;
    try {
      link_->require_open();
    } catch (const Error& e) {
      seen = e.what();
    }
    return cat(
        "forward: every rank is here, but work over NCCL did not end (", seen,
        "). Give every rank the same calls, in the same order, with the same max_tokens; then "
        "make a new communicator and layer.");
  }

 private:
  // The host hears of a loss a moment later than the device.
  static constexpr std::chrono::milliseconds kPatience{1000};

  DeviceTransport(std::unique_ptr<Communicator> own_host, const DeviceTransport& parent)
      : DeviceTransport(*own_host, parent.backend_, parent.sizes_, parent.link_) {
    own_host_ = std::move(own_host);
    const int32_t mine = parent.members_[parent.rank()];
    host_.all_gather(Tensor(members_.data(), {size()}), ConstTensor(&mine, {1}), nullptr);
  }

  int rank() const { return host_.rank(); }

  template <class F>
  void while_open(F enqueue) {
    try {
      enqueue();
    } catch (const Error& e) {
      forget();
      if (e.code() != Errc::Transport) throw;
      give_up(e.what());
    }
  }
  // A rank to send to and one to receive from at a time, so that no rank gets all at once.
  template <class F>
  void for_others(F f) const {
    for (int step = 1; step < size(); ++step)
      f((rank() + step) % size(), (rank() - step + size()) % size());
  }
  // Every rank throws the reason that was given first.
  [[noreturn]] void give_up(const std::string& seen) {
    std::string reason = await_reason(host_, kPatience);
    if (reason.empty()) reason = why_lost();
    host_.abort(reason.empty() ? seen : reason);
    const std::string first = host_.failure_reason();
    throw Error(Errc::Transport, first.empty() ? seen : first);
  }
  void send_blocks(const RowExchange& rows, CUstream_st* stream) {
    const auto& [sent, arrived] = rows.blocks;
    const int64_t block = sent.num_rows() / size();
    if (block == 0) return send(stream);  // on every rank
    Ops& ops = backend_->ops();
    for (size_t i = 0; i < rows.src.size(); ++i) {
      ops.run(PackRows{sent[i], rows.src[i], rows.send_rows, rows.counts, rank(), block}, stream);
      add_blocks(arrived[i], sent[i]);
    }
    send(stream);
    for (size_t i = 0; i < rows.src.size(); ++i)
      ops.run(UnpackRows{rows.dst[i], arrived[i], sent[i], rows.counts, rank(), block}, stream);
  }
  void send_exactly(const RowExchange& rows, CUstream_st* stream) {
    check_stream(stream);
    Ops& ops = backend_->ops();
    backend_->memory().read_back(counts_.data(), rows.counts, stream);
    while_open([&] { link_->require_open(); });  // else the counts mean nothing
    for (size_t i = 0; i < rows.src.size(); ++i) {
      ConstTensor src = rows.src[i];
      if (rows.send_rows.present()) {
        const Tensor packed = rows.blocks.sent[i];
        ops.run(PackRows{packed, src, rows.send_rows, rows.counts, rank(), 0}, stream);
        src = packed;
      }
      add_rows(rows.dst[i], src, stream);
    }
    send(stream);
  }
  void send_to(int to, const void* data, int64_t bytes) {
    out_.push_back({members_[to], data, bytes});
  }
  void receive(int from, void* data, int64_t bytes) {
    in_.push_back({members_[from], data, bytes});
  }
  // Every rank's block but this one's own.
  void add_blocks(Tensor dst, ConstTensor src) {
    const int64_t block = src.dim(0) / size(), bytes = src.bytes() / size();
    for_others([&](int to, int from) {
      send_to(to, src.rows(to * block, block).data, bytes);
      receive(from, dst.rows(from * block, block).data, bytes);
    });
  }
  // src: the rows for each rank, one after the other; dst: those of each rank.
  void add_rows(Tensor dst, ConstTensor src, CUstream_st* stream) {
    const int64_t row_bytes = src.dim(1) * dtype_bytes(src.dtype);
    const auto count = [&](int from, int to) -> int64_t {
      return counts_[static_cast<size_t>(from) * static_cast<size_t>(size()) +
                     static_cast<size_t>(to)];
    };
    int64_t sent = 0, received = 0;
    for (int p = 0; p < size(); ++p) {
      const int64_t num_sent = count(rank(), p), num_received = count(p, rank());
      if (p == rank()) {
        backend_->ops().run(Copy{dst.rows(received, num_received), src.rows(sent, num_sent)},
                            stream);
      } else {
        if (num_sent > 0) send_to(p, src.rows(sent, num_sent).data, num_sent * row_bytes);
        if (num_received > 0)
          receive(p, dst.rows(received, num_received).data, num_received * row_bytes);
      }
      sent += num_sent;
      received += num_received;
    }
  }
  void forget() {
    gathers_.clear();
    out_.clear();
    in_.clear();
  }

  std::unique_ptr<Communicator> own_host_;  // of a split
  Communicator& host_;
  std::shared_ptr<Backend> backend_;
  RowSizes sizes_;
  std::shared_ptr<DeviceLink> link_;
  std::vector<int32_t> members_;  // these ranks, as the link counts them
  std::vector<int32_t> counts_;   // exact: [P, P]
  std::vector<Gather> gathers_;   // not enqueued yet, as the parcels
  std::vector<OutgoingParcel> out_;
  std::vector<IncomingParcel> in_;
};

}  // namespace switchyard
