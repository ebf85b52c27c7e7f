#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""quack's grouped GEMMs for Hopper as shared libraries, for a GPU where its compiler of 240 MB cannot go.

    pip install quack-kernels 'nvidia-cutlass-dsl[cu13]'
    scripts/compile_quack.py FOLDER        # FOLDER/quack_compiled, which the peer quack-kernel of switchyard.bench finds

Needs no GPU: quack compiles with its own compiler for tensors without memory, and leaves object files in its cache. Each
is linked with the compiler's runtime, `libcuda_dialect_runtime_static.a`. Needs g++ and CUDA's toolkit (CUDA_HOME).
"""
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# Tile, ping-pong, cluster: on an H200 the fastest of quack's own configurations and of smaller ones, for few rows per
# expert first. The gated GEMM gathers its rows.
GATED = ((64, 256, True, 1, 1), (64, 256, True, 2, 1), (128, 256, False, 2, 1))
PLAIN = ((64, 128, True, 1, 1), (64, 256, True, 1, 1), (192, 128, True, 1, 2), (128, 256, False, 1, 2))

# Of the compiler's dynamic library, which would bring the whole compiler.
ERRORS = """
#include <cstdio>
extern "C" void CuteDSLRT_TVMFFISetRaisedCudaError(void (*raise)(const char*, const char**, int), int code) {
  char text[32];
  std::snprintf(text, sizeof text, "%d", code);
  const char* parts[] = {"CUDA error ", text};
  if (raise != nullptr) raise("RuntimeError", parts, 2);
}
"""


class Compiled(Exception):
    """A kernel stands in the cache; what quack would do next needs a GPU."""


def compile_all(folder: pathlib.Path) -> "list[tuple[str, tuple, pathlib.Path]]":
    """Kind, configuration and object file of each kernel. quack reads the environment when it is imported."""
    os.environ.update(QUACK_ARCH="90", CUTE_DSL_ARCH="sm_90a", QUACK_CACHE_DIR=str(folder), CUDA_VISIBLE_DEVICES="")
    import quack.gemm as plain
    import quack.gemm_runtime.host as gated
    import torch
    from quack.gemm_config import GemmConfig
    from quack.gemm_interface import gemm_act, gemm_tuned
    from torch._subclasses.fake_tensor import FakeTensorMode

    def stop(*_, **__):
        raise Compiled

    plain.get_max_active_clusters = gated.get_max_active_clusters = stop
    found, known = [], set()
    with FakeTensorMode():
        def bf16(*shape):
            return torch.empty(shape, dtype=torch.bfloat16, device="cuda:0")

        def i32(*shape):
            return torch.empty(shape, dtype=torch.int32, device="cuda:0")

        for kind, configs in (("gated", GATED), ("plain", PLAIN)):
            for config in configs:
                m, n, pingpong, cluster_m, cluster_n = config
                pinned = GemmConfig(tile_m=m, tile_n=n, pingpong=pingpong, cluster_m=cluster_m, cluster_n=cluster_n,
                                    device_capacity=9, is_dynamic_persistent=False)
                try:
                    if kind == "gated":
                        gemm_act(bf16(16, 256), bf16(8, 256, 256).transpose(1, 2), activation="swiglu", cu_seqlens_m=i32(9),
                                 A_idx=i32(32), store_preact=False, concat_layout=("B",), tuned=False, config=pinned)
                    else:
                        gemm_tuned.fn(bf16(32, 128), bf16(8, 256, 128).transpose(1, 2), bf16(32, 256), cu_seqlens_m=i32(9),
                                      config=pinned)
                except Compiled:
                    pass
                (new,) = set(folder.rglob("*.o")) - known
                known.add(new)
                found.append((kind, config, new))
    return found


def link(source: pathlib.Path, target: pathlib.Path, errors: pathlib.Path) -> None:
    import nvidia_cutlass_dsl
    import tvm_ffi

    runtime = pathlib.Path(list(nvidia_cutlass_dsl.__path__)[0]) / "cu13" / "lib" / "libcuda_dialect_runtime_static.a"
    cuda = pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "lib64"
    subprocess.run(["g++", "-shared", "-fPIC", "-O2", "-s", "-o", target, source, errors, runtime, f"-L{cuda}", "-lcudart_static",
                    "-ldl", "-lrt", "-lpthread", tvm_ffi.libinfo.find_libtvm_ffi(), "-Wl,--exclude-libs,ALL"], check=True)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = pathlib.Path(sys.argv[1]) / "quack_compiled"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        errors = folder / "errors.cc"
        errors.write_text(ERRORS)
        kernels = []
        for kind, config, source in compile_all(folder):
            file = f"{kind}_{config[0]}x{config[1]}_{config[3]}x{config[4]}.so"
            link(source, target / file, errors)
            kernels.append({"kind": kind, "file": file, "cluster": config[3] * config[4]})
    (target / "kernels.json").write_text(json.dumps({"kernels": kernels}, indent=1) + "\n")
    for name in ("quack-kernels", "nvidia-cutlass-dsl"):  # whose versions the benchmark shows
        release = importlib.metadata.distribution(name)
        info = target.parent / f"{name.replace('-', '_')}-{release.version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release.version}\n")
        (info / "top_level.txt").write_text(target.name + "\n")
    print(f"{target}: {len(kernels)} kernels")


if __name__ == "__main__":
    main()
