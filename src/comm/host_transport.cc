// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/comm/host_transport.cc -- every exchange is a call of the communicator, which copies at once.
#include <array>
#include <vector>

#include "comm/row_transport.h"

namespace switchyard {
namespace {

class HostTransport final : public RowTransport {
 public:
  explicit HostTransport(Communicator& communicator) : communicator_(communicator) {
    counts_.resize(static_cast<size_t>(size()) * static_cast<size_t>(size()));
  }
  explicit HostTransport(std::unique_ptr<Communicator> own) : HostTransport(*own) {
    own_ = std::move(own);
  }

  int size() const override { return communicator_.size(); }
  void gather(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    communicator_.all_gather(dst, src, stream);
  }
  void send(CUstream_st*) override {}
  void exchange_rows(const RowExchange& rows, CUstream_st* stream) override {
    std::array<RowTransfer, kMaxRowParts> parts;
    for (size_t i = 0; i < rows.src.size(); ++i) parts[i] = {rows.dst[i], rows.src[i]};
    communicator_.all_to_all_rows({parts.data(), rows.src.size()}, rows.send_rows, rows.counts,
                                  stream);
  }
  void swap_blocks(Tensor dst, ConstTensor src, CUstream_st* stream) override {
    counts_.assign(counts_.size(), static_cast<int32_t>(src.dim(0) / size()));
    exchange_rows({.dst = dst,
                   .src = src,
                   .blocks = {},
                   .counts = ConstTensor(counts_.data(), {size(), size()})},
                  stream);
  }
  std::unique_ptr<RowTransport> split(int color) override {
    return std::make_unique<HostTransport>(communicator_.split(color));
  }

 private:
  std::unique_ptr<Communicator> own_;  // of a split
  Communicator& communicator_;
  std::vector<int32_t> counts_;  // [P, P]
};

}  // namespace

std::unique_ptr<RowTransport> make_host_transport(Communicator& communicator) {
  return std::make_unique<HostTransport>(communicator);
}

}  // namespace switchyard
