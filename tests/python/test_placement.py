# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Placements: planned, in layers over ranks, swapped between calls; loads that are counted."""
import gc
import json

import cases
import numpy as np
import pytest
import switchyard
from cases import BF16, E, K, MODEL, SOURCE
from test_ranks import P, over_ranks, printed_by

S = 10  # weight slots over P ranks
SEED = np.random.SeedSequence().entropy  # of this run; a failure prints it
PUBLISHED = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
PUBLISHED_SLOTS = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1], [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]
EPLB = dict(num_slots=16, num_ranks=8, num_nodes=2, num_groups=4)


# ---- plans


@pytest.mark.parametrize("loads", (
    PUBLISHED, tuple(map(np.array, PUBLISHED)), *(np.array(PUBLISHED, dtype) for dtype in ("i4", "i8", "f4", "f8")),
), ids=("lists", "rows", "i32", "i64", "f32", "f64"))
def test_the_published_plan_comes_out_of_loads_in_any_form(loads):
    placement = switchyard.plan_placement(loads, **EPLB)
    assert placement.physical_to_logical == PUBLISHED_SLOTS
    assert placement.hierarchical and placement.reason
    assert repr(placement) == "<Placement of 12 experts in 16 slots on 8 ranks>"


def test_a_plan_is_that_of_the_program(tmp_path):
    loads = np.random.default_rng(SEED).integers(0, 1000, (3, 24)).tolist()
    path = tmp_path / "loads.json"
    path.write_text(json.dumps(loads))
    told = switchyard.plan(placement=path, slots=32, ranks=4)
    placement = switchyard.plan_placement(loads, num_slots=32, num_ranks=4)
    assert (placement.num_layers, placement.num_experts, placement.num_slots, placement.num_ranks) == (3, 24, 32, 4)
    for name in ("physical_to_logical", "logical_to_physical", "replica_counts", "rank_loads", "rank_loads_before", "imbalance"):
        assert getattr(placement, name) == told[name], (name, SEED)
    assert placement.max_replicas == max(map(max, placement.replica_counts))
    for layer in range(3):
        for expert, slots in enumerate(placement.logical_to_physical[layer]):
            assert slots == [s for s in range(32) if placement.physical_to_logical[layer][s] == expert]


def test_a_plan_keeps_slots_of_what_runs():
    rng = np.random.default_rng(SEED)
    loads = rng.integers(1, 1000, (2, 24))
    running = switchyard.plan_placement(loads, num_slots=32, num_ranks=4)
    assert running.num_moves == []
    changed = loads * rng.uniform(0.8, 1.2, loads.shape)
    anew = switchyard.plan_placement(changed, num_slots=32, num_ranks=4)
    kept = switchyard.plan_placement(changed, num_slots=32, num_ranks=4, current=running.physical_to_logical)
    assert (np.array(kept.imbalance) <= 1.0101 * np.array(anew.imbalance)).all(), SEED
    moves = [sum(a != b for a, b in zip(*layers)) for layers in zip(kept.physical_to_logical, running.physical_to_logical)]
    assert kept.num_moves == moves, SEED


WRONG_PLANS = {
    "too few slots": (dict(loads=[1.0] * 8, num_slots=4, num_ranks=2), ValueError, "num_slots=4"),
    "slots that ranks do not divide": (dict(loads=[1.0] * 8, num_slots=9, num_ranks=2), ValueError, "num_slots=9"),
    "ranks": (dict(loads=[1.0] * 8, num_slots=8, num_ranks=0), ValueError, "ranks"),
    "groups": (dict(loads=[1.0] * 8, num_slots=8, num_ranks=2, num_groups=3), ValueError, "groups"),
    "no loads": (dict(loads=[], num_slots=8), ValueError, "experts=0"),
    "ragged": (dict(loads=[[1.0, 2.0], [1.0]], num_slots=2), ValueError, "loads of layer 1 are 1, those of layer 0 are 2"),
    "bf16": (dict(loads=np.ones(8, BF16), num_slots=8), ValueError, "loads are bf16, need f64, f32, i64 or i32"),
    "three dimensions": (dict(loads=np.ones((1, 1, 8)), num_slots=8), ValueError, "3 dimensions"),
    "with gaps": (dict(loads=np.ones((8, 2))[:, 0], num_slots=8), ValueError, "loads has gaps"),
    "negative": (dict(loads=[1.0, -1.0], num_slots=2), RuntimeError, "-1"),
    "not finite": (dict(loads=[1.0, float("nan")], num_slots=2), RuntimeError, "nan"),
    "text": (dict(loads="many", num_slots=8), TypeError, "loads are a str, need an array, or lists of numbers"),
    "nothing": (dict(loads=None, num_slots=8), TypeError, "plan_placement"),
    "fewer slots that run": (dict(loads=[1] * 8, num_slots=8, current=[[0, 1]]), ValueError, "current has 2 slots in a layer, need num_slots=8"),
    "layers that run": (dict(loads=[1] * 2, num_slots=2, current=[[0, 1]] * 2), ValueError, "current has 2 layers, the loads are of 1"),
    "an expert that does not run": (dict(loads=[1] * 2, num_slots=2, current=[[0, 0]]), ValueError, "no slot of expert 1"),
    "lists of text": (dict(loads=[["a", "b"]], num_slots=2), TypeError, "loads are a list"),
}


@pytest.mark.parametrize("arguments, kind, text", WRONG_PLANS.values(), ids=WRONG_PLANS)
def test_a_plan_that_cannot_be_is_refused(arguments, kind, text):
    with pytest.raises(kind) as raised:
        switchyard.plan_placement(**arguments)
    assert text in str(raised.value)


# ---- in a layer


def random_slots(rng, num_slots=S):
    """Every expert, and some again."""
    slots = np.concatenate([np.arange(E), rng.integers(0, E, num_slots - E)])
    rng.shuffle(slots)
    return slots.tolist()


def of_rank(slots, rank, size=P):
    each = len(slots) // size
    return slots[rank * each:(rank + 1) * each]


class Experts:
    """Weights of a rank's slots, in arrays that a program may write."""

    def __init__(self, slots):
        w1, w2, self.router = cases.expert_arrays()
        self.w1, self.w2 = w1[slots], w2[slots]
        self.weights = switchyard.LayerWeights(self.w1, self.w2, switchyard.GateUpOrder.GateUp, router=self.router,
                                               num_slots=len(slots))

    def move(self, slots):
        w1, w2, _ = cases.expert_arrays()
        self.w1[...], self.w2[...] = w1[slots], w2[slots]


def placed_layer(communicator, slots, experts=None, **options):
    experts = experts or Experts(of_rank(slots, communicator.rank))
    return switchyard.MoeLayer(cases.config(), experts.weights,
                               **{"max_tokens": 16, "num_threads": 1, "communicator": communicator, "placement": slots, **options})


EXACT = dict(strategy="low_latency+masked", sums_at_source=True)  # over ranks, the bits of one


def test_experts_have_the_bits_of_their_order_wherever_they_are():
    rng = np.random.default_rng(SEED)
    slots = random_slots(rng)

    def body(c):
        hidden = cases.rows(8 + c.rank)
        layer = placed_layer(c, slots, **EXACT)
        return (cases.bits(layer(hidden)) == cases.bits(cases.layer()(hidden))).all()
    assert over_ranks(body) == [True, True], (slots, SEED)


@pytest.mark.parametrize("strategy", ("normal+contiguous", "normal+masked", "all_gather+hybrid", "low_latency+masked"))
def test_replicas_compute_what_their_expert_does(strategy):
    slots = random_slots(np.random.default_rng(SEED))

    def body(c):
        hidden = cases.rows(8 + c.rank, seed=c.rank)
        expected = switchyard.oracle_forward(cases.config(), cases.weights(), hidden)
        return switchyard.compare(placed_layer(c, slots, strategy=strategy)(hidden), expected).rel_error
    for error in over_ranks(body):
        assert 0 < error <= cases.TOLERANCE, (slots, SEED)


def test_weights_of_slots_are_those_of_their_experts_and_of_every_form():
    slots = random_slots(np.random.default_rng(SEED))
    config, hidden = cases.config(), cases.rows()
    for form in (switchyard.ExpertFormat(), switchyard.fp8_blocks(config)):
        everything = switchyard.random_weights(config, 3, format=form)
        weights = switchyard.weights_of_slots(everything, np.array(slots, np.int32))
        assert weights.format == switchyard.ExpertFormat(dtype=form.dtype, w1=form.w1, w2=form.w2, num_slots=S)
        placed = switchyard.MoeLayer(config, weights, max_tokens=16, num_threads=1, placement=slots)
        in_order = switchyard.MoeLayer(config, everything, max_tokens=16, num_threads=1)
        assert (cases.bits(placed(hidden)) == cases.bits(in_order(hidden))).all(), (form, slots)
    with pytest.raises(switchyard.ShapeMismatch, match=f"weights_of_slots: expert={E}, there are weights of {E}"):
        switchyard.weights_of_slots(everything, [0, E])


def test_weights_move_and_tables_swap_between_calls_and_no_bit_changes():
    rng = np.random.default_rng(SEED)
    tables = [random_slots(rng) for _ in range(6)]

    def body(c):
        hidden, experts = cases.rows(8 + c.rank), Experts(of_rank(tables[0], c.rank))
        layer, expected = placed_layer(c, tables[0], experts, **EXACT), cases.bits(cases.layer()(hidden))
        same = []
        for slots in tables[1:]:
            same.append((cases.bits(layer(hidden)) == expected).all())
            c.meet()  # no rank computes with what is written now
            experts.move(of_rank(slots, c.rank))
            layer.set_placement(slots)
        layer.grow(32)
        return same + [(cases.bits(layer(hidden)) == expected).all()]
    for same in over_ranks(body):
        assert same == [True] * len(tables), SEED


def test_tables_that_differ_are_an_error_of_every_rank_and_the_layer_goes_on():
    first, other = list(range(E)) + [0, 1, 2, 3], [0, 1, 2, 3] + list(range(E))

    def body(c):
        layer = placed_layer(c, first, **EXACT)
        before = cases.bits(layer(cases.rows()))
        if c.rank == 1:
            layer.set_placement(other)
        with pytest.raises(switchyard.ShapeMismatch, match="forward: placement=.* differs") as raised:
            layer(cases.rows())
        if c.rank == 1:
            layer.set_placement(first)
        return str(raised.value), (cases.bits(layer(cases.rows())) == before).all()
    one, two = over_ranks(body)
    assert one == two and one[1]


def test_a_table_that_breaks_the_rules_is_refused_and_the_old_one_stays():
    slots = random_slots(np.random.default_rng(SEED))
    experts = Experts(slots)
    layer = switchyard.MoeLayer(cases.config(), experts.weights, max_tokens=16, num_threads=1, placement=slots)
    before = cases.bits(layer(cases.rows()))
    for wrong, text in ((slots[1:], "set_placement: slots=9, the layer has 10"),
                        ([E] + slots[1:], r"set_placement: placement\[0\]=6, need an expert of 0 to 5 or -1"),
                        ([0] * S, "set_placement: placement of 10 slots has no expert 1")):
        with pytest.raises(switchyard.ShapeMismatch, match=text):
            layer.set_placement(wrong)
    assert (cases.bits(layer(cases.rows())) == before).all()
    with pytest.raises(switchyard.Unsupported, match="set_placement: the layer has no placement"):
        cases.layer().set_placement(slots)


WRONG_LAYERS = {
    "slots that ranks do not divide": (list(range(E)) + [0], "create: placement has 7 slots on 2 ranks"),
    "an expert without a slot": ([0] * S, "create: placement of 10 slots has no expert 1"),
    "no expert": ([E] + list(range(E)) + [0] * 3, r"create: placement\[0\]=6"),
    "too few weights": (list(range(E)) * 2, "create: weights have num_slots=5, the placement 6 on a rank"),
}


@pytest.mark.parametrize("slots, text", WRONG_LAYERS.values(), ids=WRONG_LAYERS)
def test_a_placement_that_cannot_be_is_an_error_of_every_rank(slots, text):
    def body(c):
        with pytest.raises(switchyard.ShapeMismatch, match=text):
            placed_layer(c, slots, Experts([0, 1, 2, 3, 4]))
        return True
    assert over_ranks(body) == [True, True]


def test_a_checkpoint_is_placed_by_itself():
    io, at = switchyard.TensorFile(MODEL / "moe_io.safetensors"), "model.layers.1.mlp."
    loads = np.random.default_rng(SEED).integers(1, 100, 32)
    slots = switchyard.plan_placement(loads, num_slots=40, num_ranks=P).physical_to_logical[0]

    def body(c):
        layer = switchyard.MoeLayer.from_pretrained(MODEL, 1, max_tokens=512, num_threads=1, communicator=c, placement=slots)
        return switchyard.compare(layer(io.tensor(at + "input")), io.tensor(at + "output_fp64")).rel_error
    assert all(0 < error <= cases.TOLERANCE for error in over_ranks(body)), SEED


@pytest.mark.parametrize("slots", (list(range(32)) + [0], [0]), ids=("odd", "one"))
def test_a_checkpoint_is_refused_slots_that_ranks_do_not_divide(slots):
    def body(c):
        with pytest.raises(switchyard.ShapeMismatch, match=f"create: placement has {len(slots)} slots on 2 ranks"):
            switchyard.MoeLayer.from_pretrained(MODEL, 1, communicator=c, num_threads=1, placement=slots)
        return True
    assert over_ranks(body) == [True, True]


def test_a_checkpoint_whose_placement_cannot_be_is_an_error_of_every_rank():
    def body(c):
        wrong = [-2] if c.rank == 1 else [31]
        with pytest.raises(switchyard.ShapeMismatch) as raised:
            switchyard.MoeLayer.from_pretrained(MODEL, 1, communicator=c, num_threads=1, placement=list(range(31)) + wrong)
        return str(raised.value)
    first, second = over_ranks(body)
    assert "weights_of_slots: expert=-2" in second and first


# ---- loads


@pytest.mark.parametrize("placement", ([], list(range(E)) + [5, 5, 2, 0]), ids=("in order", "placed"))
def test_loads_are_counted_exactly_and_stay_where_they_are(placement):
    rng = np.random.default_rng(SEED)
    weights = Experts(placement).weights if placement else cases.weights()
    layer = switchyard.MoeLayer(cases.config(), weights, max_tokens=16, num_threads=1, placement=placement,
                                count_loads=True, allow_repeated_experts=True)
    loads = layer.expert_loads
    assert loads.dtype == "i64" and loads.shape == (E,) and not loads.read_only
    counted = loads.numpy()
    assert (counted == 0).all()
    expected = np.zeros(E, np.int64)
    for _ in range(3):
        ids = rng.integers(-1, E, (9, K)).astype(np.int32)
        layer(cases.rows(), ids=ids, weights=rng.random((9, K), np.float32))
        expected += np.bincount(ids[ids >= 0], minlength=E)
        assert (counted == expected).all(), SEED
    layer.grow(64)
    chosen, _ = layer.gate(cases.rows(33))
    layer(cases.rows(33))
    expected += np.bincount(np.asarray(chosen).ravel(), minlength=E)
    assert (counted == expected).all() and (layer.expert_loads.numpy() == expected).all()
    counted[:] = 0
    layer(cases.rows(33))
    assert counted.sum() == 33 * K
    again = switchyard.plan_placement(loads, num_slots=E, num_ranks=3)
    assert again.physical_to_logical == switchyard.plan_placement(counted.tolist(), num_slots=E, num_ranks=3).physical_to_logical
    del layer, weights
    gc.collect()
    assert counted.sum() == 33 * K  # the layer is kept


def test_loads_are_counted_where_they_are_asked_for():
    def body(c):
        layer = placed_layer(c, list(range(E)), count_loads=c.rank == 0)
        layer(cases.rows(5))
        return None if layer.expert_loads is None else layer.expert_loads.numpy().sum()
    assert over_ranks(body) == [5 * K, None]


def test_the_example_evens_out_its_ranks():
    first, second = printed_by(SOURCE / "examples" / "python" / "placement.py")
    before, placed, error = (float(word.rstrip(",")) for word in (first.split()[2], first.split()[7], first.split()[9]))
    assert placed < before and error <= cases.TOLERANCE and second == ""
