# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Layers over ranks: threads, processes by the environment, and a program's own gather."""
import gc
import hashlib
import os
import random
import socket
import subprocess
import sys
import threading

import cases
import numpy as np
import pytest
import switchyard

P, E = 2, cases.E
SEED = np.random.SeedSequence().entropy  # of this run; a failure prints it


def over_ranks(body, deadline=30.0):
    """body(communicator) of each rank, on a thread each."""
    results = [None] * P

    def run(r, communicator):
        try:
            results[r] = body(communicator)
        except Exception as error:
            results[r] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(switchyard.make_local_ranks(P, deadline=deadline))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def layer_of(communicator, **options):
    w1, w2, router = cases.expert_arrays()
    first, last = communicator.rank * E // P, (communicator.rank + 1) * E // P
    weights = switchyard.LayerWeights(w1[first:last].copy(), w2[first:last].copy(), switchyard.GateUpOrder.GateUp, router=router)
    return switchyard.MoeLayer(cases.config(), weights, **{"max_tokens": 16, "num_threads": 1, "communicator": communicator, **options})


def outputs(communicator):
    return np.asarray(layer_of(communicator).forward(cases.rows(8 + communicator.rank)))


def test_ranks_compute_what_one_does():
    for rank, output in enumerate(over_ranks(outputs)):
        expected = cases.layer().forward(cases.rows(8 + rank))
        assert cases.relative_error(output.astype(np.float32), expected.astype(np.float64)) <= 4e-3


def test_ranks_on_cpus_have_no_better_place_for_hidden_states():
    assert cases.layer().input_rows is None
    assert over_ranks(lambda c: [layer_of(c, strategy=s).input_rows for s in ("normal+contiguous", "low_latency+masked")]) == 2 * [2 * [None]]


def test_calls_go_on_without_a_rank_that_is_lost():
    done = threading.Event()
    rng = np.random.default_rng(SEED)
    ids = np.argsort(rng.random((8, E)), axis=1)[:, :cases.K].astype(np.int32)
    weights = rng.random((8, cases.K), np.float32)
    here = ids < E // P  # experts of rank 0

    def body(c):
        layer = layer_of(c, strategy="low_latency+masked", sums_at_source=True, lost_rank_timeout=1.5)
        x = cases.rows(8)
        whole = cases.bits(layer.forward(x, ids=ids, weights=weights))
        if c.rank == 1:
            return done.wait()
        try:
            with pytest.raises(switchyard.Transport, match="rows of rank 1 did not come within lost_rank_timeout"):
                layer.forward(x, ids=ids, weights=weights)
            assert layer.missing_ranks() == [1]
            for wrong in ([], [1], [0, 2], [0, -1]):
                with pytest.raises(switchyard.ShapeMismatch, match="set_active_ranks"):
                    layer.set_active_ranks(wrong)
            layer.set_active_ranks([0])
            assert layer.missing_ranks() == []
            part = cases.bits(layer.forward(x, ids=ids, weights=weights))
            assert layer.dropped_routes.numpy().tolist() == [np.count_nonzero(~here)]
            return whole, part
        finally:
            done.set()

    whole, part = raised_or(over_ranks(body)[0])
    one = cases.layer()
    assert (whole == cases.bits(one.forward(cases.rows(8), ids=ids, weights=weights))).all(), SEED
    assert (part == cases.bits(one.forward(cases.rows(8), ids=np.where(here, ids, -1).astype(np.int32), weights=weights))).all(), SEED


def raised_or(result):
    if isinstance(result, Exception):
        raise result
    return result


def test_layers_that_have_all_ranks_say_so():
    layer = cases.layer()
    assert layer.missing_ranks() == [] and layer.dropped_routes is None
    with pytest.raises(switchyard.Unsupported, match="lost_rank_timeout"):
        layer.set_active_ranks([0])
    for wrong in (-1.0, float("nan"), 400 * 86400.0):
        with pytest.raises((switchyard.ShapeMismatch, TypeError)):
            cases.layer(lost_rank_timeout=wrong)
    assert switchyard.LayerOptions(lost_rank_timeout=1e-5).lost_rank_timeout == 0.001  # not none


def test_a_communicator_says_what_it_is():
    def look(c):
        c.meet()
        return c.rank, c.size, c.transport, c.failure_reason
    assert over_ranks(look) == [(0, 2, "threads", ""), (1, 2, "threads", "")]


PROGRAM = """
import hashlib, sys
import numpy as np
import test_ranks, switchyard
output = test_ranks.outputs(switchyard.make_process_rank(deadline=60))
print(hashlib.sha256(np.asarray(output).view(np.uint16).tobytes()).hexdigest())
"""


def free_port():
    """Rank 0 listens at the next one. Below those that the system gives to connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


def printed_by(*program):
    """What each rank of a Python program prints."""
    port = free_port()
    started = [subprocess.Popen([sys.executable, *program], stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(__file__),
                                env={**os.environ, "RANK": str(r), "WORLD_SIZE": str(P), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
               for r in range(P)]
    return [p.communicate(timeout=120)[0].strip() for p in started]


def test_the_example_runs():
    first, second = printed_by(cases.SOURCE / "examples" / "python" / "ranks.py")
    assert first.startswith("2 ranks, normal+") and float(first.split()[-1]) <= cases.TOLERANCE and second == ""


def test_processes_have_the_bits_of_threads():
    printed = printed_by("-c", PROGRAM)
    assert printed == [hashlib.sha256(o.view(np.uint16).tobytes()).hexdigest() for o in over_ranks(outputs)]


def test_a_program_may_gather_by_itself():
    barrier, parts = threading.Barrier(P), [None] * P

    def body(c):
        def gather(mine):
            parts[c.rank] = mine
            barrier.wait()
            return list(parts)
        own = switchyard.make_process_rank(c.rank, P, gather)
        return own.transport, outputs(own)
    got, expected = over_ranks(body), over_ranks(outputs)
    for (transport, output), wanted in zip(got, expected):
        assert transport == "processes" and (cases.bits(output) == cases.bits(wanted)).all()


def test_what_one_rank_gets_wrong_every_rank_raises_and_the_layer_goes_on():
    def body(c):
        layer, errors = layer_of(c), []
        for hidden in (cases.rows() if c.rank == 0 else np.zeros((3, 5), np.float32), cases.rows()):
            try:
                layer.forward(hidden)
                errors.append("")
            except switchyard.Error as error:
                errors.append(str(error))
        return errors
    first, second = over_ranks(body)
    assert first[0] and "forward: " in second[0]
    assert first[1] == second[1] == ""


def test_a_rank_that_cannot_make_its_layer_is_an_error_of_all():
    def body(c):
        try:
            layer_of(c, strategy="no such strategy" if c.rank == 1 else "auto")
        except switchyard.Error as error:
            return str(error)
    assert all(over_ranks(body))


@pytest.mark.parametrize("missing", ("folder", "layer"))
def test_a_checkpoint_that_one_rank_does_not_have_is_an_error_of_all(missing, tmp_path):
    def body(c):
        where = (tmp_path, 1) if missing == "folder" and c.rank == 1 else (cases.MODEL, 99 if missing == "layer" and c.rank == 1 else 1)
        try:
            switchyard.MoeLayer.from_pretrained(*where, max_tokens=8, num_threads=1, communicator=c)
        except switchyard.Error as error:
            return str(error)
    assert all(over_ranks(body))


def test_a_checkpoint_is_loaded_by_slices():
    def body(c):
        layer = switchyard.MoeLayer.from_pretrained(cases.MODEL, 1, max_tokens=512, num_threads=1, communicator=c)
        io = switchyard.TensorFile(cases.MODEL / "moe_io.safetensors")
        output = layer.forward(io.tensor("model.layers.1.mlp.input"))
        return switchyard.compare(output, io.tensor("model.layers.1.mlp.output_fp64")).rel_error
    assert all(0 < error <= 4e-3 for error in over_ranks(body))


def test_a_rank_that_leaves_is_named():
    def body(c):
        if c.rank == 1:
            layer_of(c)
            c.abort("rank 1 has had enough")
            return None
        with pytest.raises(switchyard.Transport, match="has had enough"):  # while it is made, or called
            layer_of(c).forward(cases.rows())
        return c.failure_reason
    first, second = over_ranks(body)
    assert second is None and "has had enough" in first


def test_a_rank_alone_gives_up(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(switchyard.Transport, match="rank 1"):
        switchyard.make_process_rank(deadline=0.3)


def test_wrong_arguments_are_refused():
    with pytest.raises(switchyard.ShapeMismatch, match="deadline: seconds=-1"):
        switchyard.make_process_rank(deadline=-1)
    with pytest.raises(switchyard.Unsupported, match="belong together"):
        switchyard.make_process_rank(0, 2)
    for parts, text in (([b""] * 3, "gave 3 parts, need 2"), ([b"", b""], "gave 0 bytes of rank 0")):
        with pytest.raises(switchyard.Error, match=text):
            switchyard.make_process_rank(0, 2, lambda mine, parts=parts: parts, deadline=1)
    with pytest.raises(switchyard.ShapeMismatch):
        switchyard.make_local_ranks(0)


def test_a_layer_keeps_its_communicator():
    [communicator] = switchyard.make_local_ranks(1)
    layer = cases.layer(communicator=communicator)
    del communicator
    gc.collect()
    assert (cases.bits(layer(cases.rows())) == cases.bits(cases.layer()(cases.rows()))).all()
