// src/dispatcher/parts.cc
#include "dispatcher/parts.h"

#include <algorithm>

#include "base/require.h"

namespace switchyard {
namespace {

// chunk = ceil(T / tp); fewer tokens or none at the end.
Dispatcher::Slice slice_of(int64_t num_tokens, int tp_rank, int tp_size) {
  const int64_t chunk = slice_capacity(num_tokens, tp_size);
  const int64_t begin = std::min(chunk * tp_rank, num_tokens);
  return {begin, std::min(chunk, num_tokens - begin)};
}

}  // namespace

Dispatcher::Slice DispatcherParts::slice(int64_t num_tokens) const {
  if (options.kind == DispatcherKind::Local) return {0, num_tokens};
  return slice_of(num_tokens, rank() % options.tp_size, options.tp_size);
}

int64_t DispatcherParts::max_rows(int64_t max_tokens) const {
  return received_rows(options.kind, max_tokens, num_ranks(), options.tp_size);
}

size_t DispatcherParts::workspace_bytes(int64_t max_tokens) const {
  return static_cast<size_t>(
      dispatcher_bytes(options.kind, config, max_tokens, num_ranks(), options.tp_size, carrier));
}

DispatchBuffers DispatcherParts::take_buffers(Workspace workspace, int64_t max_tokens) const {
  Arena arena(workspace, backend->kind());
  return DispatchBuffers::take(arena, options.kind, config, max_tokens, num_ranks(),
                               options.tp_size, carrier);
}

void DispatcherParts::check(ConstTensor hidden, ConstTensor ids, ConstTensor weights,
                            int64_t max_tokens, Dispatcher::Slice slice) const {
  SWITCHYARD_REQUIRE(
      hidden.shape.rank() == 2 && hidden.dim(1) == config.hidden && hidden.dtype == DType::Bf16,
      ShapeMismatch, "dispatch: hidden is not bf16 [T, ", config.hidden, "].");
  SWITCHYARD_REQUIRE(hidden.dim(0) <= max_tokens, ShapeMismatch, "dispatch: tokens=", hidden.dim(0),
                     ", at most max_tokens=", max_tokens, ". Raise max_tokens on every rank.");
  const Shape slots{slice.size, config.top_k};
  SWITCHYARD_REQUIRE(ids.shape == slots && ids.dtype == DType::I32, ShapeMismatch,
                     "dispatch: ids is not i32 [", slice.size, ", ", config.top_k, "].");
  SWITCHYARD_REQUIRE(weights.shape == slots && weights.dtype == DType::F32, ShapeMismatch,
                     "dispatch: weights is not f32 [", slice.size, ", ", config.top_k, "].");
}

void DispatcherParts::localize(Tensor dst, ConstTensor src, ConstTensor num_rows, Tensor status,
                               CUstream_st* stream) const {
  ops().run(LocalizeIds{dst, src, num_rows, first_expert(), num_local_experts(), config.num_experts,
                        rank(), status},
            stream);
}

SliceGather::SliceGather(const DispatcherParts& parts) {
  if (parts.options.tp_size > 1)
    group_ = parts.communicator.split(parts.rank() / parts.options.tp_size);
}

Tensor SliceGather::target(Tensor dst, const DispatchBuffers& buffers,
                           Dispatcher::Slice slice) const {
  return group_ ? buffers.output_slice.rows(0, slice.size) : dst;
}

void SliceGather::gather(Tensor dst, const DispatchBuffers& buffers, Ops& ops,
                         CUstream_st* stream) const {
  if (!group_) return;
  // Slices travel at their capacity, so that sizes depend on the call's bound only; what pads them
  // is cut here.
  group_->all_gather(buffers.output_slices, buffers.output_slice, stream);
  const int64_t capacity = buffers.output_slice.dim(0);
  for (int r = 0; r < group_->size(); ++r) {
    const auto slice = slice_of(dst.dim(0), r, group_->size());
    ops.run(Copy{dst.rows(slice.begin, slice.size),
                 buffers.output_slices.rows(r * capacity, slice.size)},
            stream);
  }
}

}  // namespace switchyard
