# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Experts of a layer of an engine, its rows, and what they are in float64.

SWITCHYARD_TEST_DEVICE=cuda has them on a GPU, where graphs are captured, too.
"""
import logging
import os

import pytest
import torch
from cases import SOURCE, TOLERANCE  # noqa: F401  # SOURCE: for who imports this

DEVICE = os.environ.get("SWITCHYARD_TEST_DEVICE", "cpu")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="SWITCHYARD_TEST_DEVICE is not cuda")
H, I, E, K = 64, 48, 8, 2
TOKENS = (1, 2, 3, 7, 16, 64, 65, 129, 512, 1000, 4096, 8192)


def weights(experts=E, intermediate=I, gated=True, seed=0):
    """w13 bf16 [E, 2I, H] gate first ([E, I, H] without a gate), w2 bf16 [E, H, I]."""
    g = torch.Generator().manual_seed(seed)
    up = 2 * intermediate if gated else intermediate
    return ((torch.randn(experts, up, H, generator=g) / H**0.5).bfloat16().to(DEVICE),
            (torch.randn(experts, H, intermediate, generator=g) / intermediate**0.5).bfloat16().to(DEVICE))


def routed(tokens, experts=E, seed=1):
    """hidden bf16 [T, H], weights f32 [T, K], ids i32 [T, K]; an expert is chosen once in a row."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.rand(tokens, experts, generator=g).argsort(1)[:, :K].int()
    return torch.randn(tokens, H, generator=g).bfloat16().to(DEVICE), torch.rand(tokens, K, generator=g).to(DEVICE), ids.to(DEVICE)


def silu(gate, up):
    return torch.nn.functional.silu(gate) * up


def by_definition(hidden, w13, w2, router_weights, ids, activation=silu):
    """The weighted sum over experts, float64; ids below 0 are no expert. activation takes gate and up, or up alone."""
    x, w13, w2 = hidden.double(), w13.double(), w2.double()
    result = torch.zeros_like(x)
    for e in range(len(w13)):
        row, slot = (ids == e).nonzero(as_tuple=True)
        product = x[row] @ w13[e].T
        between = activation(*product.chunk(2, -1)) if w13.shape[1] == 2 * w2.shape[2] else activation(product)
        result.index_add_(0, row, router_weights[row, slot].double()[:, None] * (between @ w2[e].T))
    return result


def assert_close(actual, expected):
    assert actual.dtype == torch.bfloat16 and actual.shape == expected.shape
    assert float((actual.double() - expected).norm()) <= TOLERANCE * float(expected.norm())


def assert_a_graph_is_right(run, layer):
    """A graph of run(hidden, weights, ids), captured after one call, is right for other rows."""
    static = routed(16)
    run(*static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(*static)
    for seed in range(3):
        given = routed(16, seed=seed)
        for place, tensor in zip(static, given):
            place.copy_(tensor)
        graph.replay()
        assert_close(output, by_definition(given[0], layer.w13_weight, layer.w2_weight, *given[1:]))


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.INFO and "Switchyard" in r.getMessage()]
