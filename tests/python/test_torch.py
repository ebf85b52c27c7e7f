# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""torch: tensors without a copy, the operations, compilation, gradients that would be missing."""
import gc
import runpy

import cases
import numpy as np
import pytest
import switchyard
import switchyard.torch
import torch
from cases import E, H, I, K, MODEL, SOURCE
from switchyard import GateUpOrder

OP = torch.ops.switchyard.fused_experts
OP_OUT = torch.ops.switchyard.fused_experts_out


def tensor(array):
    return torch.from_numpy(cases.bits(array).copy()).view(torch.bfloat16)


W1, W2, ROUTER = (tensor(a) for a in cases.expert_arrays())


def arguments(tokens=9):
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(tokens)])
    return tensor(cases.rows(tokens)), W1, W2, ids, torch.rand(tokens, K, generator=generator)


def by_numpy(tokens=9, **options):
    hidden, _, _, ids, weights = arguments(tokens)
    w1, w2, _ = cases.expert_arrays()
    return torch.from_numpy(switchyard.fused_experts(cases.bits(cases.rows(tokens)), w1, w2, ids.numpy(),
                                                     weights.numpy(), order=GateUpOrder.GateUp, **options))


def same_bits(a, b):
    return torch.equal(a.view(torch.uint16), b.view(torch.uint16))


# ---- tensors


def test_a_layer_reads_and_writes_tensors_in_place():
    weights = switchyard.LayerWeights(W1, W2, GateUpOrder.GateUp, router=torch.nn.Parameter(ROUTER))
    layer = switchyard.MoeLayer(cases.config(), weights, max_tokens=16, num_threads=1)
    hidden = arguments()[0]
    output = torch.full_like(hidden, torch.nan)
    assert layer.forward(hidden, output=output) is output
    assert same_bits(output, torch.from_numpy(cases.bits(cases.layer()(cases.rows()))))
    made = layer.forward(hidden)
    assert type(made) is torch.Tensor and made.dtype == torch.bfloat16 and same_bits(made, output)
    ids, chosen = layer.gate(hidden)
    assert ids.dtype == torch.int32 and chosen.dtype == torch.float32


def test_weights_live_as_long_as_the_layer_even_if_their_tensor_gets_other_memory():
    w1, w2 = W1.clone(), W2.clone()
    layer = switchyard.MoeLayer(cases.config(), switchyard.LayerWeights(w1, w2, GateUpOrder.GateUp, router=ROUTER),
                                max_tokens=16, num_threads=1)
    w1.data, w2.data = torch.zeros(8), torch.zeros(8)
    del w1, w2
    gc.collect()
    _ = [torch.zeros_like(W1) for _ in range(4)]  # would take freed memory
    assert same_bits(layer(arguments()[0]), torch.from_numpy(cases.bits(cases.layer()(cases.rows()))))


def test_own_tensors_and_torch_share_memory():
    own = switchyard.TensorFile(MODEL / "moe_io.safetensors").tensor("model.layers.1.mlp.input")
    seen = torch.from_dlpack(own)
    assert seen.dtype == torch.bfloat16 and seen.data_ptr() == own.numpy().ctypes.data


class Subclass(torch.Tensor):
    pass


WRONG = {
    "a subclass": (lambda x: x.as_subclass(Subclass), "is a test_torch.Subclass, a kind of torch.Tensor"),
    "float32": (lambda x: x.float(), "hidden is not bf16"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "hidden is not bf16"),
    "another float8": (lambda x: x.to(torch.float8_e5m2), "DLPack dtype code 12 of 8 bits, known are bf16 and f8_e4m3"),
    "transposed": (lambda x: x.t().contiguous().t(), "hidden has gaps"),
    "requires grad": (lambda x: x.clone().requires_grad_(), "requires grad, and no gradient is computed here"),
    "no memory": (lambda x: freed(x), "has no memory"),
}


def freed(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.parametrize("change, text", WRONG.values(), ids=WRONG)
def test_a_tensor_that_is_not_understood_is_refused(change, text):
    with pytest.raises(switchyard.Error, match=text):
        cases.layer().forward(change(arguments()[0]))


@pytest.mark.parametrize("change", [lambda x: x.to("meta"), lambda x: x.to_sparse()], ids=["meta", "sparse"])
def test_what_torch_refuses_is_its_exception(change):
    with pytest.raises((RuntimeError, BufferError, NotImplementedError)):
        cases.layer().forward(change(arguments()[0]))


def test_a_negated_view_is_refused():
    _, w1, w2, ids, weights = arguments()
    lazy = torch._neg_view(weights)
    with pytest.raises(switchyard.Unsupported, match="weights is lazily negated"):
        switchyard.fused_experts(arguments()[0], w1, w2, ids, lazy, order=GateUpOrder.GateUp)


# ---- the operations


@pytest.mark.parametrize("tokens", [0, 1, 9, 300])
def test_the_operation_has_the_bits_of_the_function(tokens):
    hidden, w1, w2, ids, weights = arguments(tokens) if tokens else (
        torch.empty(0, H, dtype=torch.bfloat16), W1, W2, torch.empty(0, K, dtype=torch.int64), torch.empty(0, K))
    output = OP(hidden, w1, w2, ids, weights, order="gate_up")
    assert output.shape == hidden.shape
    if tokens:
        assert same_bits(output, by_numpy(tokens))
    out = torch.full_like(hidden, torch.nan)
    assert OP_OUT(hidden, w1, w2, ids, weights, order="gate_up", out=out) is None
    assert same_bits(out, output)


def test_options_reach_the_function():
    hidden, w1, w2, ids, weights = arguments()
    b1, b2 = torch.randn(E, 2 * I), torch.randn(E, H)
    output = OP(hidden, w1, w2, ids, weights, order="up_gate", activation="clamped_swiglu", alpha=1.5, limit=0.5, b1=b1,
                b2=b2)
    w = cases.expert_arrays()
    expected = switchyard.fused_experts(
        cases.bits(cases.rows()), w[0], w[1], ids.numpy(), weights.numpy(), order=GateUpOrder.UpGate, b1=b1.numpy(),
        b2=b2.numpy(), activation=switchyard.Activation("clamped_swiglu", 1.5, 0.5))
    assert same_bits(output, torch.from_numpy(expected))
    ids[:, 0] = E
    sentinel = OP(hidden, w1, w2, ids, weights, order="gate_up", no_expert_out_of_range=True)
    ids[:, 0] = -1
    assert same_bits(sentinel, OP(hidden, w1, w2, ids, weights, order="gate_up"))
    rounded = OP(hidden, w1, w2, ids, weights.bfloat16(), order="gate_up")  # as most models have them
    assert same_bits(rounded, OP(hidden, w1, w2, ids, weights.bfloat16().float(), order="gate_up"))


def test_opcheck():
    torch.library.opcheck(OP.default, arguments(), {"order": "gate_up"})
    out = torch.empty_like(arguments()[0])
    torch.library.opcheck(OP_OUT.default, arguments(), {"order": "gate_up", "out": out})


def test_one_compilation_serves_every_number_of_tokens():
    compiled = []

    def count(graph, _):
        compiled.append(graph)
        return graph.forward

    def f(hidden, w1, w2, ids, weights):
        return OP(hidden, w1, w2, ids, weights, order="gate_up") + hidden

    fast = torch.compile(f, fullgraph=True, dynamic=True, backend=count)
    for tokens in (3, 5, 129, 300):  # not 2, which would be K
        assert same_bits(fast(*arguments(tokens)), f(*arguments(tokens)))
    assert len(compiled) == 1
    through_aot = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    assert same_bits(through_aot(*arguments(7)), f(*arguments(7)))


@pytest.mark.parametrize("which", range(3))
def test_a_gradient_that_would_be_missing_is_an_error(which):
    given = list(arguments())
    given[which] = given[which].clone().requires_grad_()
    with pytest.raises(switchyard.Unsupported, match="a tensor requires grad"):
        OP(*given, order="gate_up")
    out = torch.empty_like(given[0])
    with pytest.raises(switchyard.Unsupported, match="a tensor requires grad"):
        OP_OUT(*given, order="gate_up", out=out)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert same_bits(OP(*given, order="gate_up"), by_numpy())


def test_a_wrong_argument_is_an_exception_with_the_text_of_cpp():
    hidden, w1, w2, ids, weights = arguments()
    with pytest.raises(switchyard.Unsupported, match="order=sideways, need gate_up or up_gate"):
        OP(hidden, w1, w2, ids, weights, order="sideways")
    with pytest.raises(switchyard.BadRouting, match="expert id=.* on rank 0"):
        OP(hidden, w1, w2, ids + 100, weights, order="gate_up")
    with pytest.raises(switchyard.ShapeMismatch, match="output overlaps"):
        OP_OUT(hidden, w1, w2, ids, weights, order="gate_up", out=hidden)


# ---- the module


def moe(**options):
    module = switchyard.torch.MoE(H, I, E, K, **options)
    module.load_state_dict({"gate.weight": ROUTER, "experts.gate_up_proj": W1, "experts.down_proj": W2})
    return module


def test_the_module_is_its_definition():
    hidden = tensor(cases.rows(12)).view(3, 4, H)
    w1, w2, router = cases.expert_arrays()
    ids, weights = cases.softmax_top_k(cases.rows(12), router)
    for options, weights in (({}, weights), ({"renormalize": True, "scale": 2.0}, 2 * weights / weights.sum(1, keepdims=True))):
        with torch.no_grad():
            output = moe(**options)(hidden)
        assert output.shape == hidden.shape
        expected = cases.experts_by_definition(cases.rows(12), w1, w2, ids, weights)
        assert cases.relative_error(output.view(-1, H).double().numpy(), expected) <= cases.TOLERANCE


def test_the_module_refuses_a_gradient_and_sizes_that_no_layer_has():
    with pytest.raises(switchyard.Unsupported, match="requires grad"):
        moe()(tensor(cases.rows()))
    with pytest.raises(switchyard.ShapeMismatch, match="top_k=9"):
        switchyard.torch.MoE(H, I, E, 9)


def test_import_of_the_package_alone_does_not_import_torch():
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", "import switchyard, sys; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("name", ["torch_experts", "porting"])
def test_an_example_runs(name):
    runpy.run_path(str(SOURCE / "examples" / "python" / f"{name}.py"))


def test_the_example_of_several_ranks_runs():
    assert "2 ranks, 4 experts each" in cases.torchrun(2, "torchrun_experts.py")
