// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/weights/to_device.cc -- weights from the host into one block of a device's memory.
#include <algorithm>
#include <vector>

#include "base/backend.h"
#include "weights/weight_block.h"

namespace switchyard {
namespace {

// Bytes between two words of progress; many times what is staged at once, so copies overlap.
constexpr int64_t kPieceBytes = int64_t{256} << 20;

struct Copy {
  Tensor dst;
  ConstTensor src;
};

void copy_in_pieces(Copy copy, Backend& backend, int64_t& done, int64_t total,
                    const Progress& progress) {
  const int64_t count = copy.dst.count();
  copy.dst.shape = copy.src.shape = {count};
  const int64_t step = kPieceBytes / dtype_bytes(copy.dst.dtype);
  for (int64_t first = 0; first < count; first += step) {
    const Tensor piece = copy.dst.rows(first, std::min(step, count - first));
    copy_to_device(backend, piece, copy.src.rows(first, piece.count()).data);
    done += piece.bytes();
    if (progress) progress(done, total);
  }
}

// The block as the host's weights have it: their order, and no router where they have none.
LayerWeights view_like(const WeightBlock& block, const LayerWeights& host) {
  LayerWeights w = block.view();
  w.experts.order = host.experts.order;
  w.shared.order = host.shared.order;
  if (!host.router.weight.present()) w.router = {};
  return w;
}

}  // namespace

LayerWeights to_device(const LayerWeights& host, const MoeConfig& config, int num_ranks,
                       Backend& backend, const Progress& progress) {
  validate(host, config, num_ranks);
  if (!is_arranged(host.experts)) {
    const auto cpu = make_cpu_backend();
    return to_device(arrange_weights(host, config, num_ranks, *cpu), config, num_ranks, backend,
                     progress);
  }
  const ExpertFormat format = format_of(host.experts);
  const auto bytes = static_cast<size_t>(weight_bytes(config, num_ranks, format));
  std::shared_ptr<void> memory = allocate(backend, bytes);
  Arena arena({memory.get(), bytes}, backend.kind());
  WeightBlock block = WeightBlock::take(arena, config, num_ranks, format);
  block.memory = std::move(memory);

  LayerWeights wanted = host;
  if (!wanted.router.weight.present()) wanted.router = {};
  std::vector<Copy> all;  // of one shape: `validate` has seen to that
  for (const WeightPart& part : weight_parts(config, num_ranks, format))
    if (part.view(wanted).present()) all.push_back({block.*part.tensor, part.view(wanted)});
  int64_t done = 0, total = 0;
  for (const Copy& c : all) total += c.dst.bytes();
  for (const Copy& c : all) copy_in_pieces(c, backend, done, total, progress);
  return view_like(block, host);
}

}  // namespace switchyard
