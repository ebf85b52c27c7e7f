// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/grouped_gemm/epilogue.cuh -- what is done to a tile of sums before it is stored: passes
// over the whole tile, one after the other.
//
// A pass is a struct in a file of its own: what it needs at run time, `of`, which finds that in the
// operation, and operator(), which changes the fragment or finds that there is nothing to do.
#pragma once

#include "cuda/grouped_gemm/epilogue_activate.cuh"
#include "cuda/grouped_gemm/epilogue_bias.cuh"
#include "cuda/grouped_gemm/epilogue_scale.cuh"

namespace switchyard::cuda {

template <class... Passes>
struct PassList : Passes... {
  static PassList of(const GroupedGemm& g) { return {Passes::of(g)...}; }

  template <class Fragment>
  __device__ void operator()(const Fragment& f, const OutputTile& t) const {
    (static_cast<const Passes&>(*this)(f, t), ...);
  }
};

using Epilogue = PassList<ScaleRows, AddBias, Activate>;

}  // namespace switchyard::cuda
