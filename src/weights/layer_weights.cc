// src/weights/layer_weights.cc -- the rules that weights obey, random ones that obey them, and copies
// in one block of a device's memory.
#include <algorithm>
#include <thread>
#include <vector>

#include "base/backend.h"
#include "base/random.h"
#include "base/shape_text.h"
#include "weights/weight_block.h"

namespace switchyard {
namespace {

void check_part(const WeightPart& part, ConstTensor t, DeviceKind device) {
  SWITCHYARD_REQUIRE(part.wanted || !t.present(), ShapeMismatch, "weights: ", part.name,
                     " is given, the config has none. Make config and weights agree.");
  if (!part.wanted) return;
  SWITCHYARD_REQUIRE(
      t.shape == part.shape && t.dtype == part.dtype, ShapeMismatch, "weights: ", part.name, " is ",
      t.present() ? cat(dtype_name(t.dtype), " ", shape_text(t.shape)) : std::string("missing"),
      ", need ", dtype_name(part.dtype), " ", shape_text(part.shape),
      ". Check config and weights.");
  SWITCHYARD_REQUIRE(t.data != nullptr || t.count() == 0, ShapeMismatch, "weights: ", part.name,
                     " is null.");
  SWITCHYARD_REQUIRE(reinterpret_cast<uintptr_t>(t.data) % 16 == 0, Misaligned,
                     "weights: ", part.name, " address is not a multiple of 16. Align it.");
  SWITCHYARD_REQUIRE(
      t.device == device, ShapeMismatch, "weights: ", part.name, " is on ", device_name(t.device),
      ", need ", device_name(device),
      device == DeviceKind::Cuda ? ". Copy them with to_device." : ". Pass the ones on the host.");
}

void check_group(WeightPart::Group group, const LayerWeights& w, const MoeConfig& c, int num_ranks,
                 DeviceKind device) {
  for (const WeightPart& part : weight_parts(c, num_ranks))
    if (part.group == group) check_part(part, part.view(w), device);
}

void check_order(const char* name, GateUpOrder order, const Activation& activation) {
  SWITCHYARD_REQUIRE(!activation.gated() || order != GateUpOrder::Unset, ShapeMismatch,
                     "weights: ", name,
                     " order is unset, need GateUp or UpGate. Say which half of w1 comes first.");
}

void fill(Tensor t, uint64_t stream, RandomValues random) {
  const int64_t count = t.count();
  for (int64_t i = 0; i < count; ++i) {
    const float value = random.middle + uniform_at(stream, static_cast<uint64_t>(i), random.range);
    if (t.dtype == DType::F32)
      t.as<float>()[i] = value;
    else
      t.as<Bf16>()[i] = Bf16(value);
  }
}

// Rows of K consecutive ids, modulo E, from a random one on.
void fill_table(Tensor t, uint64_t stream, int64_t num_experts) {
  const int64_t top_k = t.dim(1);
  for (int64_t row = 0; row < t.dim(0); ++row) {
    const float first = 0.5f + uniform_at(stream, static_cast<uint64_t>(row), 0.5f);
    const auto id = static_cast<int64_t>(first * static_cast<float>(num_experts));
    for (int64_t k = 0; k < top_k; ++k)
      t.as<int32_t>()[row * top_k + k] = static_cast<int32_t>((id + k) % num_experts);
  }
}

// ---- to a device

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

void validate(const ExpertWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  validate(c);
  SWITCHYARD_REQUIRE(num_ranks >= 1, ShapeMismatch, "weights: P=", num_ranks, ", need at least 1.");
  check_order("w1", w.order, c.activation);
  LayerWeights layer;
  layer.experts = w;
  check_group(WeightPart::Group::Experts, layer, c, num_ranks, device);
}

void validate(const LayerWeights& w, const MoeConfig& c, int num_ranks, DeviceKind device) {
  using enum WeightPart::Group;
  validate(w.experts, c, num_ranks, device);
  if (w.router.weight.present()) check_group(Router, w, c, num_ranks, device);
  check_group(Shared, w, c, num_ranks, device);
  if (c.shared.intermediate > 0) check_order("shared w1", w.shared.order, c.shared_activation());
  check_group(Path, w, c, num_ranks, device);
}

LayerWeights random_weights(const MoeConfig& config, int num_ranks, int rank, uint64_t seed) {
  const auto block = WeightBlock::allocate(config, num_ranks);
  const int64_t experts = experts_of_rank(config.num_experts, num_ranks);
  auto parts = weight_parts(config, num_ranks);
  std::erase_if(parts, [](const WeightPart& part) { return !part.wanted; });
  const int64_t num_threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, experts);
  {
    std::vector<std::jthread> threads;
    for (int64_t t = 0; t < num_threads; ++t)
      threads.emplace_back([&, t] {
        for (int64_t e = t; e < experts; e += num_threads)
          for (const auto& p : parts)
            if (p.by_expert())
              fill((block.*p.tensor).rows(e, 1),
                   random_stream(seed, rank * experts + e, p.random.number), p.random);
      });
  }
  for (const auto& p : parts) {
    const uint64_t stream = random_stream(seed, -1, p.random.number);
    if (p.dtype == DType::I32)
      fill_table(block.*p.tensor, stream, config.num_experts);
    else if (!p.by_expert())
      fill(block.*p.tensor, stream, p.random);
  }
  return block.view();
}

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
  std::vector<Copy> all;  // of one shape: `validate` has seen to that
  for (const WeightPart& part : weight_parts(config, num_ranks))
    if (part.view(wanted).present()) all.push_back({block.*part.tensor, part.view(wanted)});
  int64_t done = 0, total = 0;
  for (const Copy& c : all) total += c.dst.bytes();
  for (const Copy& c : all) copy_in_pieces(c, backend, done, total, progress);
  return view_like(block, host);
}

}  // namespace switchyard
