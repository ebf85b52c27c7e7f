# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Layers and rows that several tests use."""
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import switchyard

SOURCE = pathlib.Path(__file__).resolve().parents[2]
MODEL = SOURCE / "data" / "tiny-code-moe"
BF16 = ml_dtypes.bfloat16
TOLERANCE = 4e-3  # relative L2, of every family
H, I, E, K = 64, 48, 6, 2


def bf16(rng, *shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(BF16)


def bits(array):
    """Of bf16 rows, to compare without a tolerance."""
    return np.ascontiguousarray(array).view(np.uint16)


def expert_arrays(seed=0):
    """w1 [E, 2I, H], w2 [E, H, I], router [E, H]; products keep the size of their input."""
    rng = np.random.default_rng(seed)
    return bf16(rng, E, 2 * I, H, scale=H**-0.5), bf16(rng, E, H, I, scale=I**-0.5), bf16(rng, E, H, scale=H**-0.5)


def rows(tokens=9, seed=1):
    return bf16(np.random.default_rng(seed), tokens, H)


def config(**changes):
    return switchyard.MoeConfig(hidden=H, intermediate=I, num_experts=E, top_k=K, **changes)


def weights(seed=0):
    w1, w2, router = expert_arrays(seed)
    return switchyard.LayerWeights(w1, w2, switchyard.GateUpOrder.GateUp, router=router)


def layer(**options):
    return switchyard.MoeLayer(config(), weights(), **{"max_tokens": 16, "num_threads": 1, **options})


def softmax_top_k(hidden, router, k=K):
    """ids and weights by definition, in float64."""
    logits = hidden.astype(np.float64) @ router.astype(np.float64).T
    scores = np.exp(logits - logits.max(1, keepdims=True))
    scores /= scores.sum(1, keepdims=True)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, 1)


def experts_by_definition(hidden, w1, w2, ids, router_weights):
    """The experts' weighted sum in float64; gate rows first, silu."""
    x, w1, w2 = (a.astype(np.float64) for a in (hidden, w1, w2))
    result = np.zeros_like(x)
    for t in range(len(x)):
        for e, weight in zip(ids[t], router_weights[t]):
            if e < 0:
                continue
            gate, up = np.split(w1[e] @ x[t], 2)
            result[t] += weight * (w2[e] @ (up * gate / (1 + np.exp(-gate))))
    return result


def relative_error(actual, expected):
    return np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected)


def torchrun(ranks, program):
    """What rank 0 of a program of examples/python or of this folder prints."""
    folder = SOURCE / "examples" / "python"
    path = folder / program if (folder / program).exists() else SOURCE / "tests" / "python" / program
    run = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
                          path], capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout
