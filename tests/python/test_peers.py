# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""python -m switchyard.bench on the CPU; the peers that need a GPU over stubs of their packages."""
import ast
import csv
import json
import os
import subprocess
import sys
import time
import types
import weakref

import engine_stub
import pytest
import switchyard
import switchyard.bench as bench
import torch
from switchyard import peers

SIZES = (64, 48, 8, 2)
SHAPE = "64,48,8,2"


def layer(max_tokens=64):
    return peers.Layer.random(SIZES, max_tokens, torch.device("cpu"))


@pytest.fixture
def quick(monkeypatch):
    """No cache is flushed: a test asks for no times."""
    monkeypatch.setattr(bench, "FLUSH_BYTES", 1 << 20)


# ---- the program


def test_the_program_times_what_is_installed(quick, tmp_path, capsys):
    files = tmp_path / "results.json", tmp_path / "results.csv"
    words = ["--peers", "--device", "cpu", "--shape", SHAPE, "--tokens", "1,5", "--repeat", "3", "--json", str(files[0]), "--csv", str(files[1])]
    assert bench.main(words) == 0
    results = json.loads(files[0].read_text())
    assert results["device"] and results["date"] and results["versions"]["torch"] == torch.__version__
    run = results["bench"][SHAPE]
    assert run["config"] == {"hidden": 64, "intermediate": 48, "experts": 8, "top_k": 2}
    timed = run["rows"]
    assert {row["peer"] for row in timed} >= {"switchyard", "switchyard-op", "torch"}
    for row in timed:
        assert row["op"] in ("layer_given_routing", "layer") and row["tokens"] in (1, 5)
        assert 0 < row["us_min"] <= row["us"] <= row["us_max"] and row["floor_us"] > 0
        assert row["error"] <= (4e-3 if row["peer"].startswith("switchyard") else bench.MOST_ERROR)
    assert len([r for r in timed if r["peer"] == "switchyard"]) == 4
    with open(files[1], newline="") as file:
        assert len(list(csv.DictReader(file))) == len(timed) + len(run["not_timed"])
    shown = capsys.readouterr().out
    assert "experts, their routing given" in shown and "gate and experts" in shown and "switchyard-op" in shown


def test_a_wrong_peer_is_named_and_not_timed(quick, monkeypatch, capsys, tmp_path):
    def fails(layer):
        raise ImportError("no such package\nand more")

    def skips(hidden, ids, weights):
        raise peers.Skip("would copy 99 GB of weights")

    monkeypatch.setattr(bench, "PEERS", (
        peers.Peer("zeros", "torch", lambda layer: peers.Prepared(lambda hidden, *_: torch.zeros_like(hidden)), True),
        peers.Peer("nans", "torch", lambda layer: peers.Prepared(lambda hidden, *_: hidden * torch.nan), True),
        peers.Peer("fails", "torch", fails, True),
        peers.Peer("absent", "no_such_package", fails, True),
        peers.Peer("large", "torch", lambda layer: peers.Prepared(skips), True),
        peers.Peer("gpu", "torch", fails)))
    assert bench.main(["--device", "cpu", "--shape", SHAPE, "--tokens", "1,2", "--gate", "out", "--json", str(tmp_path / "r")]) == 0
    results = json.loads((tmp_path / "r").read_text())
    assert results["missing"] == {"absent": "no_such_package is not installed", "gpu": "needs a GPU"}
    run = results["bench"][SHAPE]
    assert run["rows"] == [] and {row["peer"] for row in run["not_timed"]} == {"zeros", "nans", "fails", "large"}
    shown = capsys.readouterr().out
    assert "left out: absent, no_such_package is not installed\n" in shown
    for line in ("zeros: wrong: error 1.0e+00 (tokens 1, 2)", "nans: wrong: error nan (tokens 1, 2)", "fails: ImportError: no such package\n",
                 "large: would copy 99 GB of weights (tokens 1, 2)"):
        assert f"not timed: {line}" in shown


def test_a_peer_that_had_its_time_is_left_for_the_next(quick, monkeypatch, tmp_path, capsys):
    given = layer().by_definition
    slow = peers.Peer("slow", "torch", lambda layer: time.sleep(1.1) or peers.Prepared(given), on_cpu=True)
    fast = peers.Peer("fast", "torch", lambda layer: peers.Prepared(layer.by_definition), on_cpu=True)
    monkeypatch.setattr(bench, "PEERS", (slow, fast))
    words = ["--peers", "--device", "cpu", "--shape", SHAPE, "--tokens", "1", "--repeat", "1", "--limit", "1", "--json", str(tmp_path / "r")]
    assert bench.main(words) == 0
    run = json.loads((tmp_path / "r").read_text())["bench"][SHAPE]
    assert [row["peer"] for row in run["rows"]] == ["fast"] * 2
    assert [row["peer"] for row in run["not_timed"]] == ["slow"] * 2 and "--limit" in run["not_timed"][0]["reason"]
    assert "slow: it had its 1 s" in capsys.readouterr().out


def test_batched_mm_is_not_run_where_it_would_copy_too_much():
    pytest.importorskip("transformers")
    prepared = peers._transformers("batched_mm", layer())
    ids = torch.zeros(1, dtype=torch.int64).expand(10**6 * 4).view(-1, 2)  # no memory: one id
    with pytest.raises(peers.Skip, match="would copy .* GB of weights"):
        prepared.given(torch.zeros(1, 64).bfloat16(), ids, torch.zeros(1, 2))


@pytest.mark.parametrize("words, text", [
    (["--peers", "none"], "peers: name=none, known are switchyard,"),
    (["--preset", "none"], "preset: name=none, known are"),
    (["--shape", "64,48,8"], "shape: 64,48,8, need H,I,E,K."),
    (["--shape", "64,48,2,3"], "shape: 64,48,2,3, need H,I,E,K."),
])
def test_wrong_usage_is_refused(quick, capsys, words, text):
    assert bench.main(["--device", "cpu", *words]) == 2
    assert text in capsys.readouterr().err


def test_presets_are_those_of_the_program():
    known = bench.sizes_of(bench.MODELS, [])
    assert len(known) == 8 and known["qwen3-30b-a3b"] == (2048, 768, 128, 8)


def test_the_module_may_be_called_as_the_function_of_its_name():
    code = ("import switchyard; function = switchyard.bench; import switchyard.bench\n"
            "try: switchyard.bench(preset='none')\n"
            "except switchyard.WrongUsage as error: assert 'name=none' in str(error)\n"
            "else: raise SystemExit('no error')")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_runs():
    asked = subprocess.run([sys.executable, "-m", "switchyard.bench", "--help"], capture_output=True, text=True, check=True)
    assert "--peers" in asked.stdout and "python -m switchyard.bench" in asked.stdout


def test_what_a_call_costs_the_host_is_written(quick, tmp_path, capsys):
    from switchyard import overhead

    file = tmp_path / "overhead.json"
    assert overhead.main(["--device", "cpu", "--shape", SHAPE, "--repeat", "2", "--json", str(file)]) == 0
    shown, results = capsys.readouterr().out, json.loads(file.read_text())
    assert results["device"] and results["command"].startswith("python -m switchyard.overhead")
    rows = {row["call"]: row for row in results["overhead"]["rows"]}
    assert list(rows) == [overhead.CPP, "MoeLayer.forward, output given", "MoeLayer.forward", "fused_experts_out", "fused_experts",
                          "fused_experts under no_grad"]
    for row in rows.values():
        assert 0 < row["us_min"] <= row["us"] <= row["us_max"] and row["over_cpp_us"] == row["us"] - rows[overhead.CPP]["us"]
    assert all(name in shown for name in rows)


def test_what_cpp_does_so_often_is_what_a_call_does():
    made = layer()
    rows = bench.Rows.random(made, 1, torch.device("cpu"))
    config = switchyard.MoeConfig(hidden=64, intermediate=48, num_experts=8, top_k=2)
    ours = switchyard.MoeLayer(config, switchyard.LayerWeights(made.w13, made.w2, switchyard.GateUpOrder.GateUp), max_tokens=1)
    output = torch.full_like(rows.hidden, torch.nan)
    assert ours._time_forward(rows.hidden, output, rows.ids, rows.weights, 3) > 0
    assert torch.equal(output, ours.forward(rows.hidden, ids=rows.ids, weights=rows.weights))


# ---- what a row holds


def test_what_a_peer_planned_lives_until_its_times_are_taken(quick):
    """A graph reads it, and does not keep it: it was freed, and replays read what came there."""
    class Plan:
        pass

    class Graph(bench.Device):
        def captured(self, call):
            output = call()
            return lambda: alive.append(plan() is not None), output, False

    def planned(ids):
        nonlocal plan
        made = Plan()
        plan = weakref.ref(made)
        return made

    plan, alive = lambda: None, []
    model = layer()
    rows = bench.Rows.random(model, 3, torch.device("cpu"))
    prepared = peers.Prepared(lambda hidden, ids, weights: rows.expected.clone(), plan=planned)
    row = bench.measure({"op": "layer_given_routing"}, prepared, model, rows, Graph("cpu"), 3)
    assert "reason" not in row and alive and all(alive)


def test_rows_near_a_tie_are_left_out_of_the_error_of_a_gate():
    made = layer()
    made.router[1] = made.router[0]  # two experts that score alike
    hidden = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids, _ = made.gate(hidden)
    one_of_them = ((ids == 0) | (ids == 1)).sum(1) == 1
    assert one_of_them.any() and torch.equal(made.is_clear(hidden), ~one_of_them)


def test_work_counts_active_experts():
    made = layer()
    rows = bench.Rows.random(made, 1, torch.device("cpu"))
    h, i, e, k = SIZES
    assert bench.work(made, rows, "layer_given_routing") == {
        "active_experts": k, "bytes": k * 3 * h * i * 2 + 2 * 2 * h, "flops": k * 3 * h * i * 2}


# ---- peers that need a GPU: are they called as their packages want?


class Stub:
    """Modules of a package, and what a test of it calls."""

    def __init__(self, monkeypatch, **functions):
        for path, function in functions.items():
            *modules, name = path.split("__")
            for depth in range(1, len(modules) + 1):
                module = ".".join(modules[:depth])
                monkeypatch.setitem(sys.modules, module, sys.modules.get(module) or types.ModuleType(module))
            setattr(sys.modules[".".join(modules)], name, function)


def grouped(rows, w, starts):
    return torch.cat([rows[a:b] @ w[e] for e, (a, b) in enumerate(zip(starts, starts[1:]))])


def stub_quack(monkeypatch):
    def gemm(A, B, cu_seqlens_m=None):
        assert cu_seqlens_m.dtype == torch.int32
        return grouped(A, B, cu_seqlens_m.tolist())

    def gemm_act(A, B, activation=None, cu_seqlens_m=None, A_idx=None, store_preact=True, concat_layout=None):
        assert A_idx.dtype == torch.int32 and activation == "swiglu" and concat_layout == ("B",) and not store_preact
        return None, peers._silu_and_mul(grouped(A[A_idx], B, cu_seqlens_m.tolist()))

    Stub(monkeypatch, quack__gemm_interface__gemm=gemm, quack__gemm_interface__gemm_act=gemm_act)


def stub_sonicmoe(monkeypatch):
    def moe_general_routing_inputs(x, router_scores, token_indices, expert_indices, w1, b1, w2, b2, E, stream_id, activation_type,
                                   is_inference_mode_enabled=False, concat_layout=False):
        assert (token_indices.diff() >= 0).all() and token_indices.dtype == expert_indices.dtype == torch.int32
        assert concat_layout and activation_type == "swiglu" and (b1, b2) == (None, None)
        made = peers.Layer(w1.permute(2, 0, 1), w2.permute(2, 0, 1), None, 1, 0)
        rows = made.by_definition(x[token_indices.long()], expert_indices[:, None], router_scores[:, None])
        return torch.zeros(x.shape, dtype=torch.float64).index_add_(0, token_indices.long(), rows).bfloat16(), None

    class ActivationType:
        SWIGLU = "swiglu"

    Stub(monkeypatch, sonicmoe__moe_general_routing_inputs=moe_general_routing_inputs, sonicmoe__enums__ActivationType=ActivationType)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=0))


def stub_deep_gemm(monkeypatch):
    def m_grouped_bf16_gemm_nt_contiguous(a, b, d, grouped_layout):
        assert len(a) == len(d) == len(grouped_layout) and len(a) % 16 == 0 and grouped_layout.dtype == torch.int32
        d.fill_(torch.nan)
        for tile in range(0, len(a), 16):  # a tile belongs to one expert: the first row's
            expert = int(grouped_layout[tile])
            assert set(grouped_layout[tile:tile + 16].tolist()) <= {expert, -1}
            if expert >= 0:
                d[tile:tile + 16] = a[tile:tile + 16] @ b[expert].T

    Stub(monkeypatch, deep_gemm__m_grouped_bf16_gemm_nt_contiguous=m_grouped_bf16_gemm_nt_contiguous,
         deep_gemm__get_m_alignment_for_contiguous_layout=lambda: 16)


def stub_flashinfer(monkeypatch):
    def cutlass_fused_moe(input, token_selected_experts, token_final_scales, fc1_expert_weights, fc2_expert_weights, output_dtype,
                          quant_scales, output=None):
        up, gate = fc1_expert_weights.chunk(2, 1)
        made = peers.Layer(torch.cat([gate, up], 1), fc2_expert_weights, None, 1, 0)
        assert token_selected_experts.dtype == torch.int32 and token_final_scales.dtype == torch.float32 and quant_scales == []
        output.copy_(made.by_definition(input, token_selected_experts, token_final_scales))

    Stub(monkeypatch, flashinfer__fused_moe__cutlass_fused_moe=cutlass_fused_moe)


def layer_function(order):
    """A whole layer as a function, of arguments in this order."""
    def function(*values):
        a = dict(zip(order, values))
        assert a["ids"].dtype == torch.int32
        return peers.Layer(a["w13"], a["w2"], None, 1, 0).by_definition(a["x"], a["ids"], a["weights"]).bfloat16()

    return function


def stub_liger(monkeypatch):
    function = types.SimpleNamespace(apply=layer_function(["x", "w13", "w2", "ids", "weights"]))
    Stub(monkeypatch, liger_kernel__ops__fused_moe__LigerFusedMoEFunction=function)


def stub_vllm(monkeypatch):
    def fused_topk(hidden_states, gating_output, topk, renormalize):
        assert renormalize
        weights, ids = gating_output.softmax(-1).topk(topk)
        return weights / weights.sum(-1, keepdim=True), ids.int(), None

    prefix = "vllm__model_executor__layers__fused_moe__"
    Stub(monkeypatch, **{prefix + "fused_experts": layer_function(["x", "w13", "w2", "weights", "ids"]), prefix + "fused_topk": fused_topk})


def stub_sglang(monkeypatch):
    name = "sglang__srt__layers__moe__moe_runner__triton_utils__fused_moe__fused_experts_impl"
    Stub(monkeypatch, **{name: layer_function(["x", "w13", "w2", "weights", "ids"])})


@pytest.mark.parametrize("stub, name", [
    (stub_quack, "quack"), (stub_sonicmoe, "sonicmoe"), (stub_deep_gemm, "deepgemm"), (stub_flashinfer, "flashinfer"),
    (stub_liger, "liger"), (stub_vllm, "vllm"), (stub_sglang, "sglang")])
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_a_peer_is_called_as_its_package_wants(monkeypatch, stub, name, tokens):
    stub(monkeypatch)
    made = layer()
    (peer,) = (p for p in peers.PEERS if p.name == name)
    prepared = peer.prepare(made)
    rows = bench.Rows.random(made, tokens, torch.device("cpu"))
    for op in ("layer_given_routing", "layer"):
        assert rows.error(bench.call_of(prepared, made, rows, op)(), op) < bench.MOST_ERROR


def test_the_rows_of_vllms_kernel_are_aligned_to_tiles(monkeypatch):
    from switchyard import _vllm_kernel as kernel

    monkeypatch.setattr(kernel, "tiles", lambda *_: {"BLOCK_SIZE_M": 16})
    ids = torch.rand(40, 8, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :2].int()
    ids[ids == 5] = 4  # an expert without rows
    planned = kernel.plan(ids, SIZES)
    assert int(planned.rows) == len(planned.sorted_ids) == 16 * len(planned.experts)
    slots = planned.sorted_ids[planned.sorted_ids < ids.numel()]
    assert sorted(slots.tolist()) == list(range(ids.numel()))
    for tile, expert in zip(planned.sorted_ids.view(-1, 16), planned.experts):
        assert (ids.flatten()[tile[tile < ids.numel()].long()] == expert).all() and (tile < ids.numel()).any()
    few = kernel.plan(ids[:1], (64, 48, 8, 2))
    assert few.sorted_ids is None and few.experts.tolist() == ids[0].tolist() and int(few.rows) == 32


def stub_quack_compiled(monkeypatch):
    from switchyard import _quack_kernel as kernel

    def gated(a, b, d, c, epilogue, scheduler, varlen, sfa, sfb):
        output, starts, token = epilogue[0], varlen[0], varlen[2]
        assert (d, c, epilogue[1:], varlen[1], varlen[3], sfa, sfb) == (None, None, (None, None), None, None, None, None)
        assert scheduler == (132, None, 8, None, None, None) and starts.dtype == token.dtype == torch.int32
        output.copy_(peers._silu_and_mul(grouped(a[token], b.transpose(1, 2), starts.tolist())))

    def plain(a, b, d, c, epilogue, scheduler, varlen, sfa, sfb):
        assert (c, epilogue, varlen[1:], sfa, sfb) == (None, (None,) * 12, (None, None, None), None, None)
        assert scheduler == (66, None, 8, None, None, None)
        d.copy_(grouped(a, b.transpose(1, 2), varlen[0].tolist()))

    def fails(*_):
        raise AssertionError("the other one is the fastest")

    def fastest(candidates, call):
        call(candidates[-1])
        return candidates[-1]

    monkeypatch.setattr(kernel, "kernels", lambda: {"gated": [kernel.Kernel(fails, 2), kernel.Kernel(gated, 1)],
                                                    "plain": [kernel.Kernel(fails, 1), kernel.Kernel(plain, 2)]})
    monkeypatch.setattr(kernel, "fastest", fastest)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(multi_processor_count=132))


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_quacks_kernels_get_what_quack_gives_them(monkeypatch, tokens):
    stub_quack_compiled(monkeypatch)
    made = layer()
    prepared = peers._quack_kernel(made)
    rows = bench.Rows.random(made, tokens, torch.device("cpu"))
    assert rows.error(bench.call_of(prepared, made, rows, "layer_given_routing")(), "layer_given_routing") < bench.MOST_ERROR
    with pytest.raises(peers.Skip, match="no routing kernels"):
        bench.call_of(prepared, made, rows, "layer")


def test_vllms_kernel_is_read_out_of_its_file(tmp_path):
    """In the interpreter of Triton, for want of a GPU; in f16, as it multiplies bf16 by their bits."""
    if not (engine_stub.source_folder() / "vllm").exists():
        pytest.skip("vllm is not there")
    pytest.importorskip("triton")
    code = ("import torch, switchyard.bench as bench\n"
            "from switchyard import peers, _vllm_kernel as kernel\n"
            "layer = peers.Layer.random((64, 48, 16, 2), 20, torch.device('cpu'))\n"
            "for tokens in (1, 2, 20):\n"
            "    rows = bench.Rows.random(layer, tokens, torch.device('cpu'))\n"
            "    planned = kernel.plan(rows.ids, layer.sizes)\n"
            "    output = kernel.experts(rows.hidden.half(), layer.w13.half(), layer.w2.half(), planned, rows.weights, peers._silu_and_mul)\n"
            "    error = rows.error(output, 'layer_given_routing')\n"
            "    assert error < bench.MOST_ERROR, error\n")
    path = os.pathsep.join([*sys.path, str(engine_stub.source_folder())])
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                           env={**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"})
    if "only 0-dimensional arrays can be converted to Python scalars" in asked.stderr:
        pytest.skip("the interpreter of this Triton does not run with this numpy")
    assert asked.returncode == 0, asked.stderr


# Where a peer's function is, in its package, and the names that are given to it.
CALLED = [
    ("quack/gemm_interface.py", "gemm", ["A", "B", "cu_seqlens_m"]),
    ("quack/gemm_interface.py", "gemm_act", ["A", "B", "activation", "cu_seqlens_m", "A_idx", "store_preact", "concat_layout", "tuned", "config"]),
    ("quack/gemm_interface.py", "gemm_tuned", ["A", "B", "out", "cu_seqlens_m", "config"]),
    ("flashinfer/fused_moe/core.py", "cutlass_fused_moe", [
        "input", "token_selected_experts", "token_final_scales", "fc1_expert_weights", "fc2_expert_weights", "output_dtype", "quant_scales",
        "output"]),
    ("vllm/model_executor/layers/fused_moe/fused_moe.py", "fused_experts", ["hidden_states", "w1", "w2", "topk_weights", "topk_ids"]),
    ("vllm/model_executor/layers/fused_moe/router/fused_topk_router.py", "fused_topk", [
        "hidden_states", "gating_output", "topk", "renormalize"]),
    ("sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe.py", "fused_experts_impl", [
        "hidden_states", "w1", "w2", "topk_weights", "topk_ids"]),
]


@pytest.mark.parametrize("path, function, names", CALLED)
def test_a_peers_function_has_the_arguments(path, function, names):
    source = engine_stub.source_folder() / path
    if not source.exists():
        pytest.skip(f"{path} is not there")
    found = engine_stub.definition_of(ast.parse(source.read_text()).body, function)
    theirs = engine_stub.parameters_of(found)
    assert set(names) <= set(theirs) and theirs[:2] == names[:2]
