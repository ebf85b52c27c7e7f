# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""LinearAttention over arrays: its definition, views with gaps, status words."""
import numpy as np
import pytest
import switchyard

B, D, W, BLOCKS, S = 3, 16, 4, 8, 4


@pytest.fixture
def attention():
    return switchyard.LinearAttention(switchyard.make_cpu_backend(num_threads=1), B)


def places():
    lengths = np.array([3, 6, 1], np.int32)  # tokens of the step included
    table = np.array([[1, 2], [3, 4], [5, 6]], np.int32)
    return dict(sequence_lengths=lengths, block_map=table, block_tokens=S)


def conv_arguments(rng):
    return dict(x=rng.standard_normal((B, D)).astype(np.float32), output=np.full((B, D), np.nan, np.float32),
                state=rng.standard_normal((BLOCKS, D, W - 1)).astype(np.float32),
                weight=rng.standard_normal((D, W)).astype(np.float32), bias=rng.standard_normal(D).astype(np.float32))


def test_a_convolution_is_its_definition(attention):
    a = conv_arguments(np.random.default_rng(0))
    before = a["state"].copy()
    attention.conv_decode(**a, **places(), activation="silu")
    attention.wait()
    reads, writes = [1, 4, None], [1, 4, 5]  # slot (L - 2) / S, slot (L - 1) / S
    for b in range(B):
        past = np.zeros((D, W - 1)) if reads[b] is None else before[reads[b]]
        window = np.concatenate([past, a["x"][b][:, None]], axis=1).astype(np.float64)
        y = a["bias"] + (a["weight"] * window).sum(1)
        assert np.allclose(a["output"][b], y / (1 + np.exp(-y)), rtol=1e-5, atol=1e-6)
        assert (a["state"][writes[b]] == window[:, 1:].astype(np.float32)).all()


def test_the_delta_rule_is_its_definition(attention):
    rng = np.random.default_rng(1)
    Hk, Hv, Dk, Dv = 2, 4, 8, 8
    packed = rng.standard_normal((B, 1, 2 * Hk * Dk + Hv * Dv)).astype(np.float32)  # q, k, v beside each other
    q = packed[..., : Hk * Dk].reshape(B, 1, Hk, Dk)
    k = packed[..., Hk * Dk : 2 * Hk * Dk].reshape(B, 1, Hk, Dk)
    v = packed[..., 2 * Hk * Dk :].reshape(B, 1, Hv, Dv)
    g, beta = -rng.random((B, 1, Hv)).astype(np.float32), rng.random((B, 1, Hv)).astype(np.float32)
    state = rng.standard_normal((BLOCKS, Hv, Dv, Dk)).astype(np.float32)
    before, output = state.copy(), np.full((B, 1, Hv, Dv), np.nan, np.float32)
    attention.delta_rule_decode(output=output, q=q, k=k, v=v, g=g, beta=beta, state=state, **places())
    attention.wait()
    for b, read in enumerate([1, 4, None]):
        for h in range(Hv):
            s = np.zeros((Dv, Dk)) if read is None else before[read, h].astype(np.float64)
            s = s * np.exp(np.float64(g[b, 0, h]))
            key = k[b, 0, h // 2].astype(np.float64)
            s = s + np.outer(beta[b, 0, h] * (v[b, 0, h] - s @ key), key)
            assert np.allclose(output[b, 0, h], s @ (q[b, 0, h // 2] / np.sqrt(Dk)), rtol=1e-4, atol=1e-5)


def test_prompts_leave_the_last_values(attention):
    rng = np.random.default_rng(2)
    x, state = rng.standard_normal((7, D)).astype(np.float32), np.zeros((BLOCKS, D, W - 1), np.float32)
    attention.conv_prefill_states(state=state, x=x, starts=np.array([0, 5, 7], np.int32),
                                  prefix_lengths=np.zeros(2, np.int32),
                                  block_map=np.array([[1, 2], [3, 4]], np.int32), block_tokens=S)
    attention.wait()
    assert (state[1] == x[1:4].T).all() and (state[2] == x[2:5].T).all()
    assert (state[3][:, 1:] == x[5:7].T).all() and (state[3][:, 0] == 0).all()


def test_a_block_outside_the_pool_is_a_bad_state(attention):
    a, at = conv_arguments(np.random.default_rng(3)), places()
    at["block_map"][1] = BLOCKS
    attention.conv_decode(**a, **at)
    assert np.isnan(a["output"][1]).all() and not np.isnan(a["output"][[0, 2]]).any()
    assert list(np.from_dlpack(attention.status())[:B]) == [0, 10, 0]
    with pytest.raises(switchyard.BadState, match="sequence 1|sequence=1"):
        attention.wait()
    assert attention.wait_status() == [0, 0, 0]


@pytest.mark.parametrize("name, value, text", [
    ("x", np.zeros((B, D + 1), np.float32), r"conv_decode: output=\[3, 16\], need \[3, 17\]"),
    ("x", np.zeros((B, D), np.int32), "conv_decode: .*x"),
    ("weight", np.zeros((D, W), np.float64), "weight"),
    ("state", np.zeros((BLOCKS, W - 1, D), np.float32).swapaxes(1, 2), "state"),
    ("block_map", np.zeros((B, 4), np.int32)[:, ::2], "block_map"),
    ("block_map", np.zeros(B, np.int32), "block_map"),
    ("block_tokens", 0, "block_tokens"),
    ("activation", "gelu", "gelu"),
])
def test_a_wrong_argument_is_an_exception_with_the_text_of_cpp(attention, name, value, text):
    with pytest.raises(switchyard.Error, match=text):
        attention.conv_decode(**{**conv_arguments(np.random.default_rng(4)), **places(), name: value})
