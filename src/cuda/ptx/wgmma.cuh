// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// src/cuda/ptx/wgmma.cuh -- one thin wrapper per instruction of a warpgroup. PTX ISA,
// "wgmma" and "setmaxnreg".
#pragma once

#include <cstdint>

#include "cuda/ptx/mbarrier.cuh"

namespace switchyard::cuda::ptx {

// Shared memory of a tile as the instruction wants it: rows of 128 bytes (64 bf16, 128 e4m3) one
// below the other, 128-byte swizzle, inner dimension contiguous; at a multiple of 1024 bytes plus 32
// bytes for each 16 bf16, or 32 e4m3, of the inner dimension.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;  // from 8 rows to the next 8
  constexpr uint64_t kLeading = uint64_t{1} << 16;            // has no meaning with this swizzle
  return kSwizzle128 | kEightRows | kLeading | ((shared_address(tile) & 0x3ffff) >> 4);
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// d (+)= A [64, 16] B [kN, 16]^T, bf16 with fp32 sums, or [64, 32] and [kN, 32] of e4m3; kN a multiple
// of 16, at most 256. Thread t
// of the warpgroup holds, of row t / 32 * 16 + t % 32 / 4 (+ 8), columns 8 j + 2 (t % 4) and the
// next in d[4 j], d[4 j + 1] (+ 8: d[4 j + 2], d[4 j + 3]). The instruction names each of its kN /
// 2 sums: lists of eight more per 16 columns.
// clang-format off
#define SWITCHYARD_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SWITCHYARD_SUMS_16 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define SWITCHYARD_NAMES_32 SWITCHYARD_NAMES_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SWITCHYARD_SUMS_32 SWITCHYARD_SUMS_16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define SWITCHYARD_NAMES_48 SWITCHYARD_NAMES_32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define SWITCHYARD_SUMS_48 SWITCHYARD_SUMS_32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define SWITCHYARD_NAMES_64 SWITCHYARD_NAMES_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define SWITCHYARD_SUMS_64 SWITCHYARD_SUMS_48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define SWITCHYARD_NAMES_80 SWITCHYARD_NAMES_64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define SWITCHYARD_SUMS_80 SWITCHYARD_SUMS_64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define SWITCHYARD_NAMES_96 SWITCHYARD_NAMES_80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define SWITCHYARD_SUMS_96 SWITCHYARD_SUMS_80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define SWITCHYARD_NAMES_112 SWITCHYARD_NAMES_96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define SWITCHYARD_SUMS_112 SWITCHYARD_SUMS_96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define SWITCHYARD_NAMES_128 SWITCHYARD_NAMES_112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define SWITCHYARD_SUMS_128 SWITCHYARD_SUMS_112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define SWITCHYARD_NAMES_144 SWITCHYARD_NAMES_128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define SWITCHYARD_SUMS_144 SWITCHYARD_SUMS_128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define SWITCHYARD_NAMES_160 SWITCHYARD_NAMES_144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define SWITCHYARD_SUMS_160 SWITCHYARD_SUMS_144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define SWITCHYARD_NAMES_176 SWITCHYARD_NAMES_160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define SWITCHYARD_SUMS_176 SWITCHYARD_SUMS_160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define SWITCHYARD_NAMES_192 SWITCHYARD_NAMES_176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define SWITCHYARD_SUMS_192 SWITCHYARD_SUMS_176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define SWITCHYARD_NAMES_208 SWITCHYARD_NAMES_192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define SWITCHYARD_SUMS_208 SWITCHYARD_SUMS_192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define SWITCHYARD_NAMES_224 SWITCHYARD_NAMES_208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define SWITCHYARD_SUMS_224 SWITCHYARD_SUMS_208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define SWITCHYARD_NAMES_240 SWITCHYARD_NAMES_224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define SWITCHYARD_SUMS_240 SWITCHYARD_SUMS_224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define SWITCHYARD_NAMES_256 SWITCHYARD_NAMES_240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define SWITCHYARD_SUMS_256 SWITCHYARD_SUMS_240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
// a, b, accumulate: the operands after the sums.
#define SWITCHYARD_WGMMA_OF(name, shape, types, transposes, n, a_name, b_name, accumulate_name)   \
  template <int kN, int kSums>                                                                    \
    requires(kN == n)                                                                             \
  __device__ __forceinline__ void name(float (&d)[kSums], uint64_t a, uint64_t b,                 \
                                       bool accumulate) {                                         \
    static_assert(kSums >= n / 2);                                                                \
    asm volatile(                                                                                 \
        "{\n.reg .pred p;\nsetp.ne.b32 p, %" #accumulate_name ", 0;\n"                            \
        "wgmma.mma_async.sync.aligned.m64n" #n shape ".f32." types " {" SWITCHYARD_NAMES_##n "}, " \
        "%" #a_name ", %" #b_name ", p, 1, 1" transposes ";\n}\n"                                 \
        : SWITCHYARD_SUMS_##n                                                                     \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                     \
  }
#define SWITCHYARD_WGMMA(n, a, b, accumulate)                                                       \
  SWITCHYARD_WGMMA_OF(wgmma_mma_async_k16, "k16", "bf16.bf16", ", 0, 0", n, a, b, accumulate)       \
  SWITCHYARD_WGMMA_OF(wgmma_mma_async_k32, "k32", "e4m3.e4m3", "", n, a, b, accumulate)
SWITCHYARD_WGMMA(16, 8, 9, 10)
SWITCHYARD_WGMMA(32, 16, 17, 18)
SWITCHYARD_WGMMA(48, 24, 25, 26)
SWITCHYARD_WGMMA(64, 32, 33, 34)
SWITCHYARD_WGMMA(80, 40, 41, 42)
SWITCHYARD_WGMMA(96, 48, 49, 50)
SWITCHYARD_WGMMA(112, 56, 57, 58)
SWITCHYARD_WGMMA(128, 64, 65, 66)
SWITCHYARD_WGMMA(144, 72, 73, 74)
SWITCHYARD_WGMMA(160, 80, 81, 82)
SWITCHYARD_WGMMA(176, 88, 89, 90)
SWITCHYARD_WGMMA(192, 96, 97, 98)
SWITCHYARD_WGMMA(208, 104, 105, 106)
SWITCHYARD_WGMMA(224, 112, 113, 114)
SWITCHYARD_WGMMA(240, 120, 121, 122)
SWITCHYARD_WGMMA(256, 128, 129, 130)
#undef SWITCHYARD_WGMMA
#undef SWITCHYARD_WGMMA_OF
#undef SWITCHYARD_NAMES_16
#undef SWITCHYARD_SUMS_16
#undef SWITCHYARD_NAMES_32
#undef SWITCHYARD_SUMS_32
#undef SWITCHYARD_NAMES_48
#undef SWITCHYARD_SUMS_48
#undef SWITCHYARD_NAMES_64
#undef SWITCHYARD_SUMS_64
#undef SWITCHYARD_NAMES_80
#undef SWITCHYARD_SUMS_80
#undef SWITCHYARD_NAMES_96
#undef SWITCHYARD_SUMS_96
#undef SWITCHYARD_NAMES_112
#undef SWITCHYARD_SUMS_112
#undef SWITCHYARD_NAMES_128
#undef SWITCHYARD_SUMS_128
#undef SWITCHYARD_NAMES_144
#undef SWITCHYARD_SUMS_144
#undef SWITCHYARD_NAMES_160
#undef SWITCHYARD_SUMS_160
#undef SWITCHYARD_NAMES_176
#undef SWITCHYARD_SUMS_176
#undef SWITCHYARD_NAMES_192
#undef SWITCHYARD_SUMS_192
#undef SWITCHYARD_NAMES_208
#undef SWITCHYARD_SUMS_208
#undef SWITCHYARD_NAMES_224
#undef SWITCHYARD_SUMS_224
#undef SWITCHYARD_NAMES_240
#undef SWITCHYARD_SUMS_240
#undef SWITCHYARD_NAMES_256
#undef SWITCHYARD_SUMS_256
// clang-format on

// A warpgroup's new number of registers per thread, down or up.
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace switchyard::cuda::ptx
