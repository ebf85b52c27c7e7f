# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The plugin for vLLM, over a stub of it; and the stub beside vLLM's source, where that is at hand."""
import logging
import re
import tomllib

import engine_cases as cases
import engine_stub
import pytest
import stub_vllm
import torch
from switchyard import _engines

A = stub_vllm.MoEActivation


@pytest.fixture
def engine(monkeypatch, caplog):
    """The stub as vLLM, nothing registered."""
    caplog.set_level(logging.INFO, "vllm.switchyard")
    monkeypatch.setenv(_engines.VARIABLE, "1")
    monkeypatch.setattr(stub_vllm.current_platform, "family", 90)
    engine_stub.install(stub_vllm)
    _engines._said.clear()
    yield stub_vllm
    stub_vllm.op_registry_oot.clear()
    engine_stub.remove("vllm", "switchyard.vllm")


def entry_point():
    """What vLLM calls: of pyproject.toml."""
    project = tomllib.loads((cases.SOURCE / "pyproject.toml").read_text())["project"]
    module, function = project["entry-points"]["vllm.general_plugins"]["switchyard"].split(":")
    assert module == _engines.__name__
    return getattr(_engines, function)


def config(**changes):
    return stub_vllm.FusedMoEConfig(**{"num_experts": cases.E, "experts_per_token": cases.K, "hidden_dim": cases.H, **changes})


def make_layer(moe, w13=None, w2=None, expert_map=None, **attributes):
    """A layer as vLLM leaves it when its weights are loaded, and its method."""
    layer = stub_vllm.RoutedExperts()
    default = cases.weights(gated=moe.is_act_and_mul)
    layer.w13_weight = torch.nn.Parameter(default[0] if w13 is None else w13, requires_grad=False)
    layer.w2_weight = torch.nn.Parameter(default[1] if w2 is None else w2, requires_grad=False)
    layer.activation, layer.global_num_experts, layer.expert_map = moe.activation, moe.num_experts, expert_map
    layer.apply_router_weight_on_input = False
    for name, value in attributes.items():
        setattr(layer, name, value)
    method = stub_vllm.UnquantizedFusedMoEMethod(moe)
    method.process_weights_after_loading(layer)
    return layer, method


def uses_switchyard(method):
    return type(method.moe_kernel.fused_experts).__name__ == "SwitchyardExperts"


def run(layer, method, hidden, weights, ids):
    return method.apply(layer, hidden, weights, ids, None, None)


# ---- registration


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_happens_unless_it_is_asked_for(engine, monkeypatch, caplog, value):
    monkeypatch.delenv(_engines.VARIABLE)
    if value is not None:
        monkeypatch.setenv(_engines.VARIABLE, value)
    entry_point()()
    assert stub_vllm.op_registry_oot == {} and cases.lines(caplog) == []
    assert not uses_switchyard(make_layer(config())[1])


def test_it_may_be_registered_again(engine, caplog):
    for _ in range(2):
        entry_point()()
    layer, method = make_layer(config())
    make_layer(config())
    assert uses_switchyard(method) and isinstance(method, stub_vllm.UnquantizedFusedMoEMethod)
    assert cases.lines(caplog) == ["Switchyard computes the experts of unquantised MoE layers."]


def test_a_plugin_that_was_there_first_stays(engine, caplog):
    stub_vllm.op_registry_oot["UnquantizedFusedMoEMethod"] = Other = type("Other", (stub_vllm.UnquantizedFusedMoEMethod,), {})
    entry_point()()
    assert list(stub_vllm.op_registry_oot.values()) == [Other]
    (line,) = cases.lines(caplog)
    assert "Other of another plugin replaces UnquantizedFusedMoEMethod" in line


def test_a_release_with_other_arguments_is_left_alone(engine, monkeypatch, caplog):
    monkeypatch.setattr(stub_vllm.FusedMoEExpertsModular, "apply", lambda self, output, hidden_states: None)
    entry_point()()
    assert stub_vllm.op_registry_oot == {}
    (line,) = cases.lines(caplog)
    assert "FusedMoEExpertsModular.apply takes self, output, hidden_states, which this release of Switchyard does not know" in line


def test_a_release_without_a_name_is_left_alone(engine, caplog):
    import vllm.platforms

    del vllm.platforms.current_platform
    entry_point()()
    assert stub_vllm.op_registry_oot == {}
    (line,) = cases.lines(caplog)
    assert line.startswith("Switchyard is not used by vllm: ImportError") and "current_platform" in line


# ---- numbers


@pytest.mark.parametrize("tokens", cases.TOKENS)
def test_rows_are_those_of_float64(engine, tokens):
    entry_point()()
    layer, method = make_layer(config())
    hidden, weights, ids = cases.routed(tokens)
    before = hidden.clone()
    output = run(layer, method, hidden, weights, ids)
    cases.assert_close(output, cases.by_definition(hidden, layer.w13_weight, layer.w2_weight, weights, ids))
    assert torch.equal(hidden, before)


@pytest.mark.parametrize("ranks", [3, cases.E])  # uneven; an expert each, fewer than a token chooses
@pytest.mark.parametrize("tokens", cases.TOKENS)
def test_expert_parallel_ranks_add_up(engine, tokens, ranks):
    """Each rank has a part of the experts and the whole layer's ids; its map says -1 for the others'."""
    entry_point()()
    hidden, weights, ids = cases.routed(tokens)
    w13, w2 = cases.weights()
    total = torch.zeros_like(hidden, dtype=torch.float64)
    owners = torch.arange(cases.E, device=cases.DEVICE) % ranks  # round robin
    for rank in range(ranks):
        mine = (owners == rank).nonzero().flatten()
        expert_map = torch.full((cases.E,), -1, dtype=torch.int32, device=cases.DEVICE)
        expert_map[mine] = torch.arange(len(mine), dtype=torch.int32, device=cases.DEVICE)
        parallel = stub_vllm.FusedMoEParallelConfig(ep_size=ranks, use_ep=True)
        layer, method = make_layer(config(moe_parallel_config=parallel), w13[mine], w2[mine], expert_map)
        assert uses_switchyard(method)
        output = run(layer, method, hidden, weights, ids)
        local = expert_map[ids.long()]
        expected = cases.by_definition(hidden, w13[mine], w2[mine], weights, local)
        if (local >= 0).any():
            cases.assert_close(output, expected)
        assert not output[(local < 0).all(1)].any()  # of tokens that have none of these experts
        total += output.double()
    expected = cases.by_definition(hidden, w13, w2, weights, ids)
    assert float((total - expected).norm()) <= cases.TOLERANCE * float(expected.norm())


def test_tensor_parallel_ranks_add_up(engine):
    entry_point()()
    hidden, weights, ids = cases.routed(50)
    w13, w2 = cases.weights()
    gate, up = w13.chunk(2, 1)
    total = torch.zeros_like(hidden, dtype=torch.float64)
    for rank in range(2):
        part = slice(rank * cases.I // 2, (rank + 1) * cases.I // 2)
        layer, method = make_layer(config(moe_parallel_config=stub_vllm.FusedMoEParallelConfig(tp_size=2)),
                                   torch.cat([gate[:, part], up[:, part]], 1), w2[:, :, part].contiguous())
        assert uses_switchyard(method)
        total += run(layer, method, hidden, weights, ids).double()
    expected = cases.by_definition(hidden, w13, w2, weights, ids)
    assert float((total - expected).norm()) <= cases.TOLERANCE * float(expected.norm())


def test_ids_of_rows_that_pad_a_graph_are_no_expert(engine):
    entry_point()()
    layer, method = make_layer(config())
    hidden, weights, ids = cases.routed(8)
    expected = run(layer, method, hidden[:5], weights[:5], ids[:5])
    ids[5:] = torch.tensor([[-1, -1], [2**31 - 1, -2**31], [cases.E, -7]], dtype=torch.int32)
    output = run(layer, method, hidden, weights, ids)
    assert torch.equal(output[:5], expected) and not output[5:].any()


F = torch.nn.functional


@pytest.mark.parametrize("kind, changes, attributes, formula", [
    (A.SILU, {}, {}, cases.silu),
    (A.SILU, {"swiglu_limit": 0.5}, {}, lambda g, u: F.silu(g.clamp(max=0.5)) * u.clamp(-0.5, 0.5)),
    (A.GELU, {}, {}, lambda g, u: F.gelu(g) * u),
    (A.GELU_TANH, {}, {}, lambda g, u: F.gelu(g, approximate="tanh") * u),
    (A.SWIGLUSTEP, {}, {}, lambda g, u: F.silu(g).clamp(max=7) * u.clamp(-7, 7)),
    (A.SWIGLUOAI_UNINTERLEAVE, {}, {"swiglu_limit": 0.5}, lambda g, u: F.silu(g.clamp(max=0.5)) * u.clamp(-0.5, 0.5)),
    (A.SWIGLUOAI_UNINTERLEAVE, {}, {"swiglu_alpha": 1.7, "swiglu_beta": 1.0, "swiglu_limit": 0.5},
     lambda g, u: g.clamp(max=0.5) * torch.sigmoid(1.7 * g.clamp(max=0.5)) * (u.clamp(-0.5, 0.5) + 1)),
    (A.SITU, {"activation_situ_beta": 2.0, "activation_situ_linear_beta": 3.0}, {},
     lambda g, u: 2 * torch.tanh(g / 2) * torch.sigmoid(g) * 3 * torch.tanh(u / 3)),
    (A.RELU2_NO_MUL, {}, {}, lambda u: torch.relu(u) ** 2),
])
def test_activations_are_vllms(engine, kind, changes, attributes, formula):
    entry_point()()
    layer, method = make_layer(config(activation=kind, **changes), **attributes)
    assert uses_switchyard(method)
    hidden, weights, ids = cases.routed(40)
    expected = cases.by_definition(hidden, layer.w13_weight, layer.w2_weight, weights, ids, formula)
    cases.assert_close(run(layer, method, hidden, weights, ids), expected)


def test_a_row_has_its_bits_in_any_batch(engine):
    entry_point()()
    layer, method = make_layer(config())
    assert type(method.moe_kernel.fused_experts)._supports_batch_invariance()
    hidden, weights, ids = cases.routed(4097)
    alone = run(layer, method, hidden[:1], weights[:1], ids[:1])
    assert torch.equal(alone, run(layer, method, hidden, weights, ids)[:1])


@cases.needs_gpu
def test_a_graph_of_a_layer_is_right(engine):
    entry_point()()
    layer, method = make_layer(config())
    cases.assert_a_graph_is_right(lambda *rows: run(layer, method, *rows), layer)


def test_the_workspace_is_not_vllms(engine):
    """vLLM's is locked after its warm-up: shapes must not grow from call to call beyond what M says."""
    entry_point()()
    experts = make_layer(config())[1].moe_kernel.fused_experts
    assert experts.workspace_shapes(7, 2 * cases.I, cases.H, cases.K, cases.E, cases.E, None, A.SILU) == ((0,), (0,), (7, cases.H))


# ---- what stays vLLM's


def parallel(**changes):
    return {"moe_parallel_config": stub_vllm.FusedMoEParallelConfig(**changes)}


FLOATS = [w.float() for w in cases.weights()]
UNEVEN = cases.weights(intermediate=44)


@pytest.mark.parametrize("changes, arguments, reason", [
    ({"activation": A.SWIGLUOAI}, {}, "SWIGLUOAI activation"),
    ({"activation": A.RELU2}, {}, "RELU2 activation"),
    ({"activation": A.SITU, "activation_situ_beta": 2.0}, {}, "activation=situ with .* is none of Switchyard's"),
    ({"activation": A.SWIGLUOAI_UNINTERLEAVE}, {"swiglu_alpha": 1.7, "swiglu_beta": 2.0, "swiglu_limit": 7.0},
     "activation=swigluoai_uninterleave with .*beta=2.0.* is none of Switchyard's"),
    ({"in_dtype": torch.float16}, {}, "rows are float16, need bfloat16"),
    ({"has_bias": True}, {}, "experts have biases"),
    ({"is_lora_enabled": True}, {}, "LoRA"),
    (parallel(ep_size=4, dp_size=2, use_ep=True), {}, "parallel config"),
    (parallel(all2all_backend="passthrough"), {}, "parallel config"),
    ({}, {"apply_router_weight_on_input": True}, "router weights are applied to the input"),
    ({}, {"w13": FLOATS[0], "w2": FLOATS[1]}, r"w13_weight is float32 \[8, 96, 64\], need bfloat16"),
    ({}, {"w13": UNEVEN[0], "w2": UNEVEN[1]}, r"w2_weight is bfloat16 \[8, 64, 44\], need bfloat16 in rows of a multiple of 8"),
    ({"hidden_dim": 60}, {}, "60 hidden dim"),
])
def test_what_cannot_be_run_stays_vllms_and_one_line_says_why(engine, caplog, changes, arguments, reason):
    entry_point()()
    for _ in range(3):  # layers
        layer, method = make_layer(config(**changes), **arguments)
        assert not uses_switchyard(method)
    assert run(layer, method, *cases.routed(3)).shape == (3, cases.H)  # by vLLM's
    (line,) = cases.lines(caplog)
    assert re.search(reason, line), line


@pytest.mark.parametrize("family", [80, 100])
def test_other_gpus_stay_vllms(engine, monkeypatch, caplog, family):
    monkeypatch.setattr(stub_vllm.current_platform, "family", family)
    entry_point()()
    assert not uses_switchyard(make_layer(config())[1])
    (line,) = cases.lines(caplog)
    assert "current device" in line


def test_weights_that_another_backend_arranged_stay_vllms(engine, monkeypatch, caplog):
    entry_point()()
    before = stub_vllm.UnquantizedFusedMoEMethod.__init__

    def cutlass(self, moe):
        before(self, moe)
        self.unquantized_backend = stub_vllm.UnquantizedMoeBackend.FLASHINFER_CUTLASS

    monkeypatch.setattr(stub_vllm.UnquantizedFusedMoEMethod, "__init__", cutlass)
    assert not uses_switchyard(make_layer(config())[1])
    (line,) = cases.lines(caplog)
    assert "backend=FlashInfer CUTLASS, need TRITON" in line


def test_a_quantised_call_raises(engine):
    from switchyard import Unsupported

    entry_point()()
    layer, method = make_layer(config())
    experts = method.moe_kernel.fused_experts
    assert not experts._supports_quant_scheme("fp8", None)
    hidden, weights, ids = cases.routed(2)
    arguments = dict(output=torch.empty_like(hidden), hidden_states=hidden, w1=layer.w13_weight, w2=layer.w2_weight, topk_weights=weights,
                     topk_ids=ids, activation=A.SILU, global_num_experts=cases.E, expert_map=None, a1q_scale=None, a2_scale=None,
                     workspace13=None, workspace2=None, expert_tokens_meta=None, apply_router_weight_on_input=False)
    experts.apply(**arguments)
    for changes in ({"a1q_scale": torch.ones(1)}, {"apply_router_weight_on_input": True}, {"activation": A.RELU2}):
        with pytest.raises(Unsupported, match="Unset SWITCHYARD_ENGINES"):
            experts.apply(**{**arguments, **changes})
    experts.post_gemm2_hook = lambda unfinalized, output: None
    with pytest.raises(Unsupported, match="post_gemm2_hook=True"):
        experts.apply(**arguments)


# ---- the stub


def test_the_guide_names_the_release_that_was_read():
    (version,) = re.findall(r"^vllm==(.*)$", (cases.SOURCE / "tests/python/engines.txt").read_text(), re.M)
    assert f" {version} " in (cases.SOURCE / "docs/guide/engines.md").read_text()


def test_the_stub_is_what_vllm_is():
    assert list(engine_stub.faults(stub_vllm, engine_stub.source_folder())) == []


def test_a_source_that_differs_is_seen(tmp_path):
    for module in stub_vllm.CLAIMS:
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("class MoEActivation(Enum):\n    SILU = 'swish'\n" if path.stem == "activation" else
                        "class FusedMoEExpertsModular:\n    def apply(self, output): ...\n" if path.stem == "modular_kernel" else "")
    found = list(engine_stub.faults(stub_vllm, tmp_path))
    prefix = "vllm.model_executor.layers.fused_moe."
    assert f"{prefix}activation.MoEActivation.SILU is 'swish', not 'silu'" in found
    assert f"{prefix}activation.MoEActivation has no GELU" in found
    assert any(f.startswith(f"{prefix}modular_kernel.FusedMoEExpertsModular.apply takes self, output, not self, output, ") for f in found)
    assert f"no {prefix}topk_weight_and_reduce.TopKWeightAndReduceNoOP" in found
