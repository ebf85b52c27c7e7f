# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""fused_experts: a layer as a function."""
import threading

import cases
import numpy as np
import pytest
import switchyard
from cases import E, H, K, TOLERANCE
from switchyard import GateUpOrder, OutOfRangeIds, fused_experts


@pytest.fixture(autouse=True)
def forget():
    yield
    switchyard.forget_fused_experts()


def routing(hidden, seed=2):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(E)[:K] for _ in hidden]).astype(np.int32)
    return ids, rng.random((len(hidden), K)).astype(np.float32)


def call(hidden, ids, weights, **options):
    w1, w2, _ = ARRAYS
    return fused_experts(hidden, w1, w2, ids, weights, **{"order": GateUpOrder.GateUp, **options})


ARRAYS = cases.expert_arrays()


@pytest.mark.parametrize("tokens", [1, 9, 64, 65, 300])
def test_it_is_its_definition(tokens):
    hidden = cases.rows(tokens)
    ids, weights = routing(hidden)
    expected = cases.experts_by_definition(hidden, *ARRAYS[:2], ids, weights)
    assert cases.relative_error(call(hidden, ids, weights), expected) <= TOLERANCE


def test_no_tokens():
    assert call(cases.rows(0), np.zeros((0, K), np.int32), np.zeros((0, K), np.float32)).shape == (0, H)


def test_a_row_has_the_same_bits_alone_and_among_others():
    hidden = cases.rows(300)
    ids, weights = routing(hidden)
    together = cases.bits(call(hidden, ids, weights))
    for t in (0, 77, 299):
        alone = call(hidden[t : t + 1], ids[t : t + 1], weights[t : t + 1])
        assert (cases.bits(alone) == together[t]).all()


def test_ids_of_i64_a_map_and_a_sentinel_are_taken_as_they_are():
    hidden = cases.rows()
    ids, weights = routing(hidden)
    expected = cases.bits(call(hidden, ids, weights))
    assert (cases.bits(call(hidden, ids.astype(np.int64), weights)) == expected).all()
    expert_map = np.full(2 * E, -1, np.int32)
    expert_map[::2] = range(E)
    assert (cases.bits(call(hidden, 2 * ids, weights, expert_map=expert_map)) == expected).all()
    ids[:, 1] = E  # a sentinel
    padded = call(hidden, ids, weights, out_of_range_ids=OutOfRangeIds.NoExpert)
    ids[:, 1] = -1
    assert (cases.bits(padded) == cases.bits(call(hidden, ids, weights))).all()


def test_a_rank_may_hold_fewer_experts_than_a_token_chooses():
    w1, w2, _ = ARRAYS
    hidden = cases.rows(40)
    ids, weights = routing(hidden)
    expert_map = np.full(E, -1, np.int32)
    expert_map[3] = 0
    elsewhere = np.where(ids == 3, ids, -1).astype(np.int32)
    output = fused_experts(hidden, w1[3:4], w2[3:4], ids, weights, order=GateUpOrder.GateUp, expert_map=expert_map)
    assert (cases.bits(output) == cases.bits(call(hidden, elsewhere, weights))).all()
    assert (ids == 3).any()


def test_the_order_of_gate_and_up_counts():
    hidden = cases.rows()
    ids, weights = routing(hidden)
    w1, w2, _ = ARRAYS
    swapped = np.ascontiguousarray(np.roll(w1, w1.shape[1] // 2, axis=1))
    other = fused_experts(hidden, swapped, w2, ids, weights, order=GateUpOrder.UpGate)
    assert (cases.bits(other) == cases.bits(call(hidden, ids, weights))).all()
    with pytest.raises(TypeError):
        fused_experts(hidden, w1, w2, ids, weights)  # there is no default


def test_output_and_workspace_may_be_given():
    hidden = cases.rows()
    ids, weights = routing(hidden)
    output = np.full_like(hidden, np.nan)
    assert call(hidden, ids, weights, output=output) is output
    memory = np.zeros(1 << 20, np.int32)
    memory = memory[-(memory.ctypes.data // 4) % 32 :]
    assert (cases.bits(call(hidden, ids, weights, workspace=memory)) == cases.bits(output)).all()


def test_threads_take_turns():
    hidden = cases.rows(64)
    ids, weights = routing(hidden)
    expected = cases.bits(call(hidden, ids, weights))
    wrong = []

    def work(tokens):
        for _ in range(20):
            if (cases.bits(call(hidden[:tokens], ids[:tokens], weights[:tokens])) != expected[:tokens]).any():
                wrong.append(tokens)

    threads = [threading.Thread(target=work, args=(t,)) for t in (1, 9, 33, 64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


HIDDEN = cases.rows()
IDS, WEIGHTS = routing(HIDDEN)
WRONG = {
    "float32 rows": (dict(hidden=HIDDEN.astype(np.float32)), "hidden is not bf16"),
    "ids out of range": (dict(ids=IDS + 100), "expert id=10[0-9] on rank 0, ids are -1"),
    "a bias of another size": (dict(b1=np.zeros((E, 3), np.float32), b2=np.zeros((E, H), np.float32)), "b1"),
    "one bias": (dict(b1=np.zeros((E, ARRAYS[0].shape[1]), np.float32)), "b2"),
    "interleaved": (dict(order=GateUpOrder.Interleaved), "fused_experts: weights are not arranged"),
    "transposed w1": (dict(w1=np.swapaxes(ARRAYS[0], 1, 2)), "fused_experts: w1 has gaps"),
    "w2 of another width": (dict(w2=ARRAYS[1][:, :8]), "fused_experts: w2 has gaps"),
    "w1 of one dimension": (dict(w1=ARRAYS[0].reshape(-1)), "config: num_experts=36864"),
    "w2 of one dimension": (dict(w2=ARRAYS[1].reshape(-1)), "config: hidden=0"),
    "no columns of ids": (dict(ids=IDS[:, :0].copy(), weights=WEIGHTS[:, :0].copy()), "config: top_k=0"),
    "output is an input": (dict(output=HIDDEN), "output overlaps"),
    "more tokens than the capacity": (dict(max_tokens=3), "forward: "),
}


@pytest.mark.parametrize("changes, text", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_an_exception_with_the_text_of_cpp(changes, text):
    arguments = {"hidden": HIDDEN, "w1": ARRAYS[0], "w2": ARRAYS[1], "ids": IDS, "weights": WEIGHTS,
                 "order": GateUpOrder.GateUp, **changes}
    with pytest.raises(switchyard.Error, match=text):
        fused_experts(**arguments)


def test_a_forked_process_is_told():
    from test_layer import exit_code_of_child

    call(HIDDEN, IDS, WEIGHTS)

    def child():
        with pytest.raises(switchyard.Unsupported, match="forked"):
            call(HIDDEN, IDS, WEIGHTS)

    assert exit_code_of_child(child) == 0
