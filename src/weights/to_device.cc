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

// What is present on the host; its shapes are those of the block, `validate` has seen to that.
std::vector<Copy> copies(const WeightBlock& b, const LayerWeights& w) {
  std::vector<Copy> all = {
      {b.w1, w.experts.w1},
      {b.w2, w.experts.w2},
      {b.b1, w.experts.b1},
      {b.b2, w.experts.b2},
      {b.router, w.router.weight},
      {b.router_bias, w.router.bias},
      {b.correction_bias, w.router.correction_bias},
      {b.expert_scale, w.router.expert_scale},
      {b.token_experts, w.router.token_experts},
      {b.shared_w1, w.shared.w1},
      {b.shared_w2, w.shared.w2},
      {b.shared_gate, w.shared.gate},
      {b.input_norm, w.path.input_norm},
      {b.down, w.path.down},
      {b.output_norm, w.path.output_norm},
      {b.up, w.path.up},
  };
  std::erase_if(all, [](const Copy& c) { return !c.src.present(); });
  return all;
}

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
  const auto bytes = static_cast<size_t>(weight_bytes(config, num_ranks));
  std::shared_ptr<void> memory = allocate(backend, bytes);
  Arena arena({memory.get(), bytes}, backend.kind());
  WeightBlock block = WeightBlock::take(arena, config, num_ranks);
  block.memory = std::move(memory);

  LayerWeights wanted = host;
  if (!wanted.router.weight.present()) wanted.router = {};
  const auto all = copies(block, wanted);
  int64_t done = 0, total = 0;
  for (const Copy& c : all) total += c.dst.bytes();
  for (const Copy& c : all) copy_in_pieces(c, backend, done, total, progress);
  return view_like(block, host);
}

}  // namespace switchyard
