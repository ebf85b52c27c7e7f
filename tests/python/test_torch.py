# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""torch: tensors without a copy, the operations, compilation, gradients that would be missing."""
import concurrent.futures
import gc
import os
import runpy
import subprocess
import sys

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
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
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


# ---- kernels of C++, and what they leave to Python

CPP = switchyard.torch.IMPLEMENTATION == "c++"


def test_the_implementation_is_the_one_that_was_asked_for():
    asked = os.environ.get("SWITCHYARD_TORCH_OPS", "c++")
    assert switchyard.torch.IMPLEMENTATION == ("c++" if asked == "c++" else "python: SWITCHYARD_TORCH_OPS=python")


@pytest.mark.skipif(not CPP, reason="is the other implementation")
def test_the_operations_in_python_pass_these_tests():
    switchyard_of_python = {**os.environ, "SWITCHYARD_TORCH_OPS": "python"}
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not example"],
                         env=switchyard_of_python, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]


@pytest.mark.skipif(not CPP, reason="needs kernels of C++")
def test_a_plain_call_does_not_enter_python():
    entered = []

    def trace(frame, *_):
        entered.append(frame.f_code.co_name)

    given = arguments()
    with torch.inference_mode():
        expected = OP(*given, order="gate_up")
        sys.setprofile(trace)
        try:
            OP(*given, order="gate_up")
            plain = list(entered)
            OP(*given[:4], given[4].double(), order="gate_up")
        finally:
            sys.setprofile(None)
    assert "_fused_experts" not in plain and "_fused_experts" in entered
    assert same_bits(expected, by_numpy())


def changed(place, change):
    def of(given):
        given[place] = change(given[place])
        return {}
    return of


REFUSED = {
    "order": (lambda given: {"order": "sideways"}, switchyard.Unsupported, "order=sideways"),
    "activation": (lambda given: {"activation": "tanh"}, switchyard.Unsupported, "tanh"),
    "ids": (changed(3, lambda x: x + 100), switchyard.BadRouting, "expert id="),
    "more tokens": (lambda given: {"max_tokens": 2}, switchyard.Error, "max_tokens"),
    "hidden f32": (changed(0, lambda x: x.float()), switchyard.ShapeMismatch, "hidden is not bf16"),
    "hidden f16": (changed(0, lambda x: x.half()), switchyard.ShapeMismatch, "hidden is not bf16"),
    "hidden bool": (changed(0, lambda x: x.bool()), switchyard.Error, "DLPack dtype code"),
    "w1 f32": (changed(1, lambda x: x.float()), switchyard.Error, "w1"),
    "w1 of five dimensions": (changed(1, lambda x: x[None, None]), switchyard.ShapeMismatch, "w1 has 5 dimensions"),
    "w1 with gaps": (changed(1, lambda x: x.transpose(1, 2)), switchyard.ShapeMismatch, "w1 has gaps"),
    "w2 without memory": (changed(2, lambda x: freed(x)), switchyard.ShapeMismatch, "w2 has no memory"),
    "w2 of other experts": (changed(2, lambda x: x[:-1]), switchyard.ShapeMismatch, "w2"),
    "ids of f32": (changed(3, lambda x: x.float()), switchyard.ShapeMismatch, "ids"),
    "ids of fewer tokens": (changed(3, lambda x: x[:-1]), switchyard.ShapeMismatch, "ids"),
    "one weight": (changed(4, lambda x: x[0, 0]), switchyard.ShapeMismatch, "weights has 0 dimensions"),
    "scales of bf16 weights": (lambda given: {"w1_scales": torch.ones(E, 1, 1)}, switchyard.Error, "scales"),
    "a block of one number": (lambda given: {"w1_block": [128]}, switchyard.Unsupported, "need rows and columns"),
    "half a bias": (lambda given: {"b1": torch.zeros(E, 2 * I)}, switchyard.Error, "b"),
}


@pytest.mark.parametrize("change, kind, text", REFUSED.values(), ids=REFUSED)
def test_an_error_has_the_class_and_the_text_of_the_function_in_python(change, kind, text):
    given = list(arguments())
    options = {"order": "gate_up", **change(given)}
    with torch.no_grad():
        with pytest.raises(kind) as expected:
            switchyard.torch._fused_experts(*given, **options)
        assert text in str(expected.value)
        out = torch.empty_like(arguments()[0])
        for call in (lambda: OP(*given, **options), lambda: OP_OUT(*given, **options, out=out)):
            for _ in range(2):  # the first error is not kept for a second
                with pytest.raises(switchyard.Error) as raised:
                    call()
                assert type(raised.value) is type(expected.value) and str(raised.value) == str(expected.value)
        assert same_bits(OP(*arguments(), order="gate_up"), by_numpy())


@pytest.mark.parametrize("out, text", [(lambda x: x[:-1].clone(), "output"), (lambda x: x.float(), "output"),
                                       (lambda x: x.t().contiguous().t(), "output has gaps")], ids=["small", "f32", "gaps"])
def test_an_output_that_does_not_fit_is_refused(out, text):
    given = arguments()
    with torch.inference_mode(), pytest.raises(switchyard.ShapeMismatch, match=text):
        OP_OUT(*given, order="gate_up", out=out(given[0]))


ODD = {
    "hidden with gaps": changed(0, lambda x: x.t().contiguous().t()),
    "ids of i32": changed(3, lambda x: x.int()),
    "ids with gaps": changed(3, lambda x: x.t().contiguous().t()),
    "parameters": changed(1, torch.nn.Parameter),
    "weights with gaps": changed(4, lambda x: x.t().contiguous().t()),
    "weights of f64": changed(4, lambda x: x.double()),
    "negated weights": changed(4, lambda x: torch._neg_view(-x)),
    "hidden from within its memory": changed(0, lambda x: torch.cat([x, x])[x.shape[0]:]),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_odd_arguments_give_the_same_bits(change, mode):
    given = list(arguments())
    change(given)
    out = torch.empty_like(arguments()[0])
    with mode():
        assert same_bits(OP(*given, order="gate_up"), by_numpy())
        OP_OUT(*given, order="gate_up", out=out)
    assert same_bits(out, by_numpy())


def test_tensors_of_two_devices_and_of_none_are_refused():
    given = list(arguments())
    given[1] = given[1].to("meta")
    with torch.no_grad(), pytest.raises(switchyard.ShapeMismatch, match="a tensor is on meta, hidden on cpu"):
        OP(*given, order="gate_up")


@pytest.mark.parametrize("place", range(5))
def test_none_is_no_tensor(place):
    given = list(arguments())
    given[place] = None
    with torch.no_grad(), pytest.raises(switchyard.ShapeMismatch, match=f"{('hidden', 'w1', 'w2', 'ids', 'weights')[place]}=None"):
        OP(*given, order="gate_up")


def test_memory_of_arguments_and_results_is_freed():
    given = [t.clone() for t in arguments()]  # others may hold or drop theirs
    options = {"b1": torch.zeros(E, 2 * I), "b2": torch.zeros(E, H), "expert_map": torch.arange(E, dtype=torch.int32)}
    uses = [torch._C._storage_Use_Count(t.untyped_storage()._cdata) for t in (*given, *options.values())]
    with torch.inference_mode():
        for _ in range(3):
            OP(*given, order="gate_up", **options)
            OP(*given[:4], given[4].bfloat16(), order="gate_up", **options)
            with pytest.raises(switchyard.BadRouting):
                OP(*given[:3], given[3] + 100, given[4], order="gate_up")
    gc.collect()
    assert uses == [torch._C._storage_Use_Count(t.untyped_storage()._cdata) for t in (*given, *options.values())]


def test_errors_stay_in_their_thread():
    def work(which):
        ids = arguments()[3] + (100 if which % 2 else 0)
        with torch.inference_mode():
            for _ in range(20):
                try:
                    right = same_bits(OP(*arguments()[:3], ids, arguments()[4], order="gate_up"), by_numpy())
                except switchyard.BadRouting:
                    right = which % 2 == 1
                else:
                    right &= which % 2 == 0
                if not right:
                    return False
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4


def test_a_compilation_serves_parameters_without_gradients_and_refuses_those_with():
    given = list(arguments())
    given[1] = torch.nn.Parameter(given[1])
    fast = torch.compile(lambda *a: OP(*a, order="gate_up") + a[0], fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        assert same_bits(fast(*given), OP(*given, order="gate_up") + given[0])
    with pytest.raises(Exception, match="requires grad"):
        fast(*given)


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
    subprocess.run([sys.executable, "-c", "import switchyard, sys; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("name", ["torch_experts", "porting"])
def test_an_example_runs(name):
    runpy.run_path(str(SOURCE / "examples" / "python" / f"{name}.py"))


def test_the_example_of_several_ranks_runs():
    assert "2 ranks, 4 experts each" in cases.torchrun(2, "torchrun_experts.py")
