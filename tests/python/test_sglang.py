# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin for SGLang, over a stub of it; and the stub beside SGLang's source, where that is at hand."""
import logging
import re
import tomllib
import types

import engine_cases as cases
import engine_stub
import pytest
import stub_sglang
import torch

from switchyard import Unsupported, _engines

CREATE = stub_sglang.UnquantizedFusedMoEMethod.create_moe_runner
STATE = dict(vars(stub_sglang.state))


@pytest.fixture
def engine(monkeypatch, caplog):
    """The stub as SGLang, nothing registered."""
    caplog.set_level(logging.INFO, "sglang.switchyard")
    monkeypatch.setenv(_engines.VARIABLE, "1")
    engine_stub.install(stub_sglang)
    _engines._said.clear()
    yield stub_sglang
    vars(stub_sglang.state).update(STATE)
    stub_sglang._CUSTOM_RUNNER_CORE_FACTORIES.clear()
    stub_sglang.HookRegistry._hooks.clear()
    stub_sglang.UnquantizedFusedMoEMethod.create_moe_runner = CREATE
    engine_stub.remove("sglang", "switchyard.sglang")


def load_plugins():
    """As SGLang does: the entry point of pyproject.toml, then the hooks."""
    project = tomllib.loads((cases.SOURCE / "pyproject.toml").read_text())["project"]
    module, function = project["entry-points"]["sglang.srt.plugins"]["switchyard"].split(":")
    assert module == _engines.__name__
    getattr(_engines, function)()
    stub_sglang.HookRegistry.apply_hooks()


def make_layer(w13=None, w2=None, bias=False, wrapped=False, **config):
    """A layer as SGLang makes it: weights first, then the runner."""
    config = stub_sglang.MoeRunnerConfig(**{"num_experts": cases.E, "num_local_experts": cases.E, "top_k": cases.K, **config})
    default = cases.weights(gated=config.is_gated)
    method = stub_sglang.UnquantizedFusedMoEMethod()
    method.with_bias = bias
    layer = types.SimpleNamespace(
        w13_weight=torch.nn.Parameter(default[0] if w13 is None else w13, requires_grad=False),
        w2_weight=torch.nn.Parameter(default[1] if w2 is None else w2, requires_grad=False),
        quant_method=types.SimpleNamespace(base_method=method) if wrapped else method, moe_runner_config=config)
    method.create_moe_runner(layer, config)
    return layer, method


def uses_switchyard(method):
    return method.runner.runner_backend.value == "switchyard"


def run(layer, method, hidden, weights, ids):
    topk = stub_sglang.StandardTopKOutput(weights, ids, None)
    return method.apply(layer, stub_sglang.StandardDispatchOutput(hidden, None, topk)).hidden_states


# ---- registration


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_happens_unless_it_is_asked_for(engine, monkeypatch, caplog, value):
    monkeypatch.delenv(_engines.VARIABLE)
    if value is not None:
        monkeypatch.setenv(_engines.VARIABLE, value)
    load_plugins()
    assert stub_sglang._CUSTOM_RUNNER_CORE_FACTORIES == {} and stub_sglang.HookRegistry._hooks == {}
    assert stub_sglang.UnquantizedFusedMoEMethod.create_moe_runner is CREATE
    assert cases.lines(caplog) == [] and not uses_switchyard(make_layer()[1])


def test_it_may_be_registered_again(engine, caplog):
    _engines.register_sglang()
    load_plugins()
    assert uses_switchyard(make_layer()[1]) and uses_switchyard(make_layer()[1])
    assert cases.lines(caplog) == ["Switchyard computes the experts of unquantised MoE layers."]


def test_a_release_with_other_arguments_is_left_alone(engine, monkeypatch, caplog):
    monkeypatch.setattr(stub_sglang.DispatchMoeRunnerCore, "run_from_dispatch", lambda self, dispatch_output: None)
    load_plugins()
    assert stub_sglang.HookRegistry._hooks == {} and not uses_switchyard(make_layer()[1])
    (line,) = cases.lines(caplog)
    assert "DispatchMoeRunnerCore.run_from_dispatch takes self, dispatch_output, which this release of Switchyard does not know" in line


def test_a_release_without_a_name_is_left_alone(engine, caplog):
    import sglang.srt.layers.moe.utils

    del sglang.srt.layers.moe.utils.RegisteredMoeRunnerBackend
    load_plugins()
    assert stub_sglang.HookRegistry._hooks == {}
    (line,) = cases.lines(caplog)
    assert line.startswith("Switchyard is not used by sglang: ImportError") and "RegisteredMoeRunnerBackend" in line


def test_a_layer_whose_choice_fails_keeps_sglangs_runner(engine, monkeypatch, caplog):
    load_plugins()
    monkeypatch.setattr(stub_sglang.MoeA2ABackend, "is_none", property(lambda self: 1 / 0))
    assert not uses_switchyard(make_layer()[1])
    (line,) = cases.lines(caplog)
    assert "ZeroDivisionError" in line


# ---- numbers


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("tokens", cases.TOKENS)
def test_rows_are_those_of_float64(engine, tokens, inplace):
    load_plugins()
    layer, method = make_layer(inplace=inplace)
    hidden, weights, ids = cases.routed(tokens)
    before = hidden.clone()
    output = run(layer, method, hidden, weights, ids)
    cases.assert_close(output, cases.by_definition(hidden, layer.w13_weight, layer.w2_weight, weights, ids))
    assert torch.equal(hidden, before)  # inplace is leave to write it, not a duty


@pytest.mark.parametrize("bounds", [(0, 3, 5, 8), tuple(range(cases.E + 1))])  # also an expert each
@pytest.mark.parametrize("tokens", cases.TOKENS)
def test_expert_parallel_ranks_add_up(engine, tokens, bounds):
    """Ids are of the rank's experts; those of other ranks are -1."""
    load_plugins()
    hidden, weights, ids = cases.routed(tokens)
    w13, w2 = cases.weights()
    total = torch.zeros_like(hidden, dtype=torch.float64)
    for first, last in zip(bounds, bounds[1:]):
        local = torch.where((ids >= first) & (ids < last), ids - first, -1).int()
        layer, method = make_layer(w13[first:last], w2[first:last], num_local_experts=last - first)
        assert uses_switchyard(method)
        output = run(layer, method, hidden, weights, local)
        if (local >= 0).any():
            cases.assert_close(output, cases.by_definition(hidden, w13[first:last], w2[first:last], weights, local))
        assert not output[(local < 0).all(1)].any()
        total += output.double()
    expected = cases.by_definition(hidden, w13, w2, weights, ids)
    assert float((total - expected).norm()) <= cases.TOLERANCE * float(expected.norm())


def test_ids_of_rows_that_pad_a_graph_are_no_expert(engine):
    load_plugins()
    layer, method = make_layer()
    hidden, weights, ids = cases.routed(8)
    expected = run(layer, method, hidden[:5], weights[:5], ids[:5])
    ids[5:] = torch.tensor([[-1, -1], [2**31 - 1, -2**31], [cases.E, -7]], dtype=torch.int32)
    output = run(layer, method, hidden, weights, ids)
    assert torch.equal(output[:5], expected) and not output[5:].any()


@cases.needs_gpu
def test_a_graph_of_a_layer_is_right(engine):
    load_plugins()
    layer, method = make_layer()
    cases.assert_a_graph_is_right(lambda *rows: run(layer, method, *rows), layer)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_routed_experts_are_scaled(engine, scale):
    load_plugins()
    layer, method = make_layer(routed_scaling_factor=scale)
    hidden, weights, ids = cases.routed(33)
    before = weights.clone()
    output = run(layer, method, hidden, weights, ids)
    cases.assert_close(output, scale * cases.by_definition(hidden, layer.w13_weight, layer.w2_weight, weights, ids))
    assert torch.equal(weights, before)


F = torch.nn.functional


@pytest.mark.parametrize("changes, formula", [
    ({"activation": "gelu"}, lambda g, u: F.gelu(g) * u),
    ({"activation": "gelu_tanh"}, lambda g, u: F.gelu(g, approximate="tanh") * u),
    ({"gemm1_clamp_limit": 0.5}, lambda g, u: F.silu(g).clamp(max=0.5) * u.clamp(-0.5, 0.5)),
    ({"swiglu_limit": 0.5}, lambda g, u: F.silu(g.clamp(max=0.5)) * u.clamp(-0.5, 0.5)),
    ({"gemm1_alpha": 1.7, "gemm1_clamp_limit": 0.5, "gate_up_interleaved": False},
     lambda g, u: g.clamp(max=0.5) * torch.sigmoid(1.7 * g.clamp(max=0.5)) * (u.clamp(-0.5, 0.5) + 1)),
    ({"activation": "situ", "gemm1_clamp_limit": 3.0},
     lambda g, u: 4 * torch.tanh(g / 4) * torch.sigmoid(g) * 3 * torch.tanh(u / 3)),
    ({"activation": "relu2", "is_gated": False}, lambda u: torch.relu(u) ** 2),
])
def test_activations_are_sglangs(engine, changes, formula):
    load_plugins()
    layer, method = make_layer(**changes)
    assert uses_switchyard(method)
    hidden, weights, ids = cases.routed(40)
    cases.assert_close(run(layer, method, hidden, weights, ids),
                       cases.by_definition(hidden, layer.w13_weight, layer.w2_weight, weights, ids, formula))


# ---- what stays SGLang's

FLOATS = [w.float() for w in cases.weights()]
UNEVEN = cases.weights(intermediate=44)


@pytest.mark.parametrize("state, arguments, reason", [
    ({}, {"activation": "silu_rounded"}, "activation=silu_rounded.* is none of Switchyard's"),
    ({}, {"activation": "silu", "is_gated": False}, "gated=False.* is none of Switchyard's"),
    ({}, {"activation": "situ"}, "activation=situ.* is none of Switchyard's"),
    ({}, {"gemm1_alpha": 1.7, "gemm1_clamp_limit": 7.0}, "interleaved=True is none of Switchyard's"),
    ({}, {"gemm1_alpha": 1.7, "gemm1_clamp_limit": 7.0, "gemm1_beta": 2.0, "gate_up_interleaved": False}, "none of Switchyard's"),
    ({}, {"bias": True}, "experts have biases"),
    ({}, {"wrapped": True}, "SimpleNamespace wraps the layer's method"),
    ({}, {"apply_router_weight_on_input": True}, "router weights are applied to the input"),
    ({}, {"no_combine": True, "inplace": False}, "rows of experts are not summed"),
    ({}, {"w13": FLOATS[0], "w2": FLOATS[1]}, r"w13_weight is float32 \[8, 96, 64\], need bfloat16"),
    ({}, {"w13": UNEVEN[0], "w2": UNEVEN[1]}, r"w2_weight is bfloat16 \[8, 64, 44\], need bfloat16 in rows of a multiple of 8"),
    ({"cuda": False}, {}, "compute capability 9.0"),
    ({"sm90": False}, {}, "compute capability 9.0"),
    ({"runner": "flashinfer_cutlass"}, {}, "runner=flashinfer_cutlass, need triton"),
    ({"a2a": "deepep"}, {}, "moe_a2a_backend=deepep, need none"),
    ({"lora": True}, {}, "LoRA is on"),
    ({"sum_all_reduce": True}, {}, "sums over the ranks inside its kernel"),
])
def test_what_cannot_be_run_stays_sglangs_and_one_line_says_why(engine, caplog, state, arguments, reason):
    vars(stub_sglang.state).update(state)
    load_plugins()
    for _ in range(3):  # layers
        layer, method = make_layer(**arguments)
        assert not uses_switchyard(method)
    assert run(layer, method, *cases.routed(3)).shape == (3, cases.H)
    (line,) = cases.lines(caplog)
    assert re.search(reason, line), line


def test_a_call_that_the_layer_was_not_made_for_raises(engine):
    load_plugins()
    layer, method = make_layer()
    method.w13_swiglu_interleaved = True
    with pytest.raises(Unsupported, match="interleaved=True"):
        run(layer, method, *cases.routed(3))
    topk = stub_sglang.StandardTopKOutput(*cases.routed(3)[1:], None)
    quant_info = stub_sglang.TritonMoeQuantInfo(layer.w13_weight, layer.w2_weight)
    for scale, hooks in ((torch.ones(1), None), (None, object())):
        with pytest.raises(Unsupported, match="Unset SWITCHYARD_ENGINES"):
            method.runner.runner_core.run_from_dispatch(
                stub_sglang.StandardDispatchOutput(cases.routed(3)[0], scale, topk), quant_info, layer.moe_runner_config, hooks=hooks)


# ---- the stub


def test_the_guide_names_the_release_that_was_read():
    (version,) = re.findall(r"^sglang==(.*)$", (cases.SOURCE / "tests/python/engines.txt").read_text(), re.M)
    assert f" {version} " in (cases.SOURCE / "docs/guide/engines.md").read_text()


def test_the_stub_is_what_sglang_is():
    assert list(engine_stub.faults(stub_sglang, engine_stub.source_folder())) == []
