# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Experts in fp8: from arrays of any library, from checkpoints, over ranks, as a function."""
import json
import subprocess
import sys

import cases
import ml_dtypes
import numpy as np
import pytest
import switchyard
from cases import BF16, SOURCE
from test_ranks import over_ranks

F8 = ml_dtypes.float8_e4m3fn
WHOLE = switchyard.ScaleBlock.WHOLE
H, I, E, K, T = 320, 192, 6, 2, 9
SEED = np.random.SeedSequence().entropy  # of this run; a failure prints it
QUANTISED_ROWS = 0.065  # docs/design/fp8.md: rows in fp8 beside rows that are not
CONFIG = switchyard.MoeConfig(hidden=H, intermediate=I, num_experts=E, top_k=K)


def block_slices(extent, size):
    return [slice(first, min(first + size, extent)) for first in range(0, extent, min(size, extent))]


def quantised(values, rows, cols):
    """f8_e4m3 of values [E, N, K], f32 scales of the blocks, and the numbers that these are, in float64."""
    down, across = block_slices(values.shape[1], rows), block_slices(values.shape[2], cols)
    scales = np.zeros((len(values), len(down), len(across)), np.float32)
    codes, numbers = np.zeros(values.shape, F8), np.zeros(values.shape)
    for i, r in enumerate(down):
        for j, c in enumerate(across):
            scales[:, i, j] = np.abs(values[:, r, c]).max((1, 2)) / 448
            codes[:, r, c] = values[:, r, c] / scales[:, i, j, None, None]
            numbers[:, r, c] = codes[:, r, c].astype(np.float64) * scales[:, i, j, None, None].astype(np.float64)
    return codes, scales, numbers


def q128(rows):
    """What rows become before a GEMM, as float64: docs/design/fp8.md."""
    rows = rows.astype(np.float32)
    for c in block_slices(rows.shape[-1], 128):
        scale = (np.maximum(np.abs(rows[..., c]).max(-1, keepdims=True), np.float32(1e-10)) / np.float32(448)).astype(np.float32)
        rows[..., c] = (rows[..., c] / scale).astype(F8).astype(np.float32) * scale
    return rows.astype(np.float64)


def experts_by_definition(hidden, w1, w2, ids, router_weights):
    """As cases.experts_by_definition, of rows that are quantised before each GEMM."""
    x, result = q128(hidden), np.zeros((len(hidden), H))
    for t in range(len(x)):
        for e, weight in zip(ids[t], router_weights[t]):
            gate, up = np.split(w1[e] @ x[t], 2)
            result[t] += weight * (w2[e] @ q128(up * gate / (1 + np.exp(-gate))))
    return result


def drawn(rng, *shape):
    """f32; products keep the size of their input."""
    return rng.standard_normal(shape).astype(np.float32) * np.float32(shape[-1] ** -0.5)


def arrays(seed, block1, block2):
    """w1, w2 as (codes, scales, numbers), and the router."""
    rng = np.random.default_rng(seed)
    return quantised(drawn(rng, E, 2 * I, H), *block1), quantised(drawn(rng, E, H, I), *block2), drawn(rng, E, H).astype(BF16)


def rows(seed=0, tokens=T):
    return cases.bf16(np.random.default_rng([SEED, seed]), tokens, H)


def weights(w1, w2, router, block1, block2, as_array=lambda codes: codes):
    return switchyard.LayerWeights(
        as_array(w1[0]), as_array(w2[0]), switchyard.GateUpOrder.GateUp, router=router, w1_scales=w1[1], w2_scales=w2[1],
        w1_block=switchyard.ScaleBlock(rows=block1[0], cols=block1[1]), w2_block=switchyard.ScaleBlock(rows=block2[0], cols=block2[1]))


def layer_of(layer_weights, **options):
    return switchyard.MoeLayer(CONFIG, layer_weights, **{"max_tokens": 16, "num_threads": 1, **options})


BLOCKS = {
    "blocks": ((64, 128), (128, 128)),  # of w1 none has both gate and up
    "channel": ((1, WHOLE), (1, WHOLE)),
    "tensor": ((I, WHOLE), (WHOLE, WHOLE)),
    "mixed": ((48, 256), (1, 128)),
    "gate and up together": ((128, 128), (128, 128)),  # in the second block of w1
    "one": ((WHOLE, WHOLE), (WHOLE, WHOLE)),
}


@pytest.mark.parametrize("block1, block2", BLOCKS.values(), ids=BLOCKS)
def test_a_layer_of_arrays_is_its_definition(block1, block2):
    w1, w2, router = arrays(SEED, block1, block2)
    given, hidden = weights(w1, w2, router, block1, block2), rows()
    routing = cases.softmax_top_k(hidden, router)
    oracle = switchyard.oracle_forward(CONFIG, given, hidden)
    exact = cases.experts_by_definition(hidden, w1[2], w2[2], *routing)
    assert np.allclose(oracle.numpy(), exact, rtol=1e-11, atol=1e-11), SEED
    output = layer_of(given)(hidden)
    assert cases.relative_error(output, experts_by_definition(hidden, w1[2], w2[2], *routing)) <= cases.TOLERANCE, SEED
    assert 0.01 < switchyard.compare(output, oracle).rel_error <= QUANTISED_ROWS, SEED
    assert given.format == switchyard.ExpertFormat(dtype="f8_e4m3", w1=switchyard.ScaleBlock(rows=block1[0], cols=block1[1]),
                                                   w2=switchyard.ScaleBlock(rows=block2[0], cols=block2[1]))


def as_torch(codes):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(codes.view(np.uint8)).view(torch.float8_e4m3fn)


def as_torch_bits(codes):
    return pytest.importorskip("torch").from_numpy(codes.view(np.uint8))


FORMS = {"bits": lambda codes: codes.view(np.uint8), "torch": as_torch, "bits of torch": as_torch_bits}


@pytest.mark.parametrize("as_array", FORMS.values(), ids=FORMS)
def test_arrays_of_every_library_give_the_same_bits(as_array):
    block1, block2 = BLOCKS["blocks"]
    w1, w2, router = arrays(SEED, block1, block2)
    given = weights(w1, w2, router, block1, block2, as_array)
    assert given.format.dtype == "f8_e4m3"
    expected = layer_of(weights(w1, w2, router, block1, block2))(rows())
    assert (cases.bits(layer_of(given)(rows())) == cases.bits(expected)).all()


def test_the_function_gives_the_bits_of_the_layer():
    for block1, block2 in BLOCKS.values():
        w1, w2, router = arrays(SEED, block1, block2)
        layer, hidden = layer_of(weights(w1, w2, router, block1, block2)), rows()
        ids, of_router = layer.gate(hidden)
        output = switchyard.fused_experts(
            hidden, w1[0], w2[0], ids, of_router, order=switchyard.GateUpOrder.GateUp, w1_scales=w1[1], w2_scales=w2[1],
            w1_block=switchyard.ScaleBlock(rows=block1[0], cols=block1[1]), w2_block=switchyard.ScaleBlock(rows=block2[0], cols=block2[1]))
        assert (cases.bits(output) == cases.bits(layer(hidden))).all()
        switchyard.forget_fused_experts()


# ---- torch: the operations and the module


def torch_op():
    pytest.importorskip("torch")
    import switchyard.torch
    return switchyard.torch.torch


def torch_bf16(array):
    return torch_op().from_numpy(cases.bits(array).copy()).view(torch_op().bfloat16)


def as_list(block):
    return [-1 if n == WHOLE else n for n in block]


def op_arguments(block1, block2, tokens=T):
    """Arguments and options of the operation, hidden, routing, and both weights as float64."""
    torch = torch_op()
    w1, w2, router = arrays(SEED, block1, block2)
    hidden = rows(tokens, tokens)
    ids, of_router = cases.softmax_top_k(hidden, router)
    options = dict(order="gate_up", w1_scales=torch.from_numpy(w1[1]), w2_scales=torch.from_numpy(w2[1]))
    if block1 != (128, 128):
        options["w1_block"] = as_list(block1)
    if block2 != (128, 128):
        options["w2_block"] = as_list(block2)
    given = (torch_bf16(hidden), as_torch(w1[0]), as_torch(w2[0]), torch.from_numpy(ids), torch.from_numpy(of_router.astype(np.float32)))
    return given, options, experts_by_definition(hidden, w1[2], w2[2], ids, of_router)


@pytest.mark.parametrize("block1, block2", BLOCKS.values(), ids=BLOCKS)
def test_the_operation_is_its_definition_and_compiles(block1, block2):
    torch = torch_op()
    op, op_out = torch.ops.switchyard.fused_experts, torch.ops.switchyard.fused_experts_out
    given, options, exact = op_arguments(block1, block2)
    output = op(*given, **options)
    assert cases.relative_error(output.double().numpy(), exact) <= cases.TOLERANCE, SEED
    out = torch.full_like(given[0], torch.nan)
    op_out(*given, **options, out=out)
    compiled = torch.compile(lambda *a: op(*a, **options), fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (T, 5, 70):
        given, options, exact = op_arguments(block1, block2, tokens)
        assert torch.equal(compiled(*given), op(*given, **options))
        assert cases.relative_error(compiled(*given).double().numpy(), exact) <= cases.TOLERANCE, SEED
    assert torch.equal(out, output)


def test_opcheck_of_the_operation():
    torch = torch_op()
    given, options, _ = op_arguments((64, 128), (128, 128))
    copies = [t.clone() for t in given]
    # Not test_schema: it multiplies its inputs, which torch cannot for float8. test_torch.py has it.
    tests = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.switchyard.fused_experts.default, given, options, test_utils=tests)
    torch.library.opcheck(torch.ops.switchyard.fused_experts_out.default, given, {**options, "out": torch.empty_like(given[0])},
                          test_utils=tests)
    assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(given, copies))


WRONG_OPERATIONS = {
    "no scales": (lambda o: o.pop("w1_scales"), "w1"),
    "one alone": (lambda o: o.pop("w2_scales"), "w2"),
    "scales of other blocks": (lambda o: o.pop("w1_block"), "w1 scales"),
    "scales of float64": (lambda o: o.update(w2_scales=o["w2_scales"].double()), "w2 scales"),
    "scales of bfloat16": (lambda o: o.update(w2_scales=o["w2_scales"].bfloat16()), "w2 scales"),
    "three numbers": (lambda o: o.update(w1_block=[64, 128, 1]), r"w1_block=\[64, 128, 1\], need rows and columns"),
    "columns": (lambda o: o.update(w1_block=[64, 64]), "cols=64"),
    "no rows": (lambda o: o.update(w2_block=[0, 128]), "rows=0"),
    "bf16 with scales": (lambda o: o.update(w1="bf16"), "w1"),
    "another fp8": (lambda o: o.update(w1="e5m2"), "DLPack dtype code 12"),
}


@pytest.mark.parametrize("change, text", WRONG_OPERATIONS.values(), ids=WRONG_OPERATIONS)
def test_a_wrong_argument_of_the_operation_is_refused(change, text):
    torch = torch_op()
    given, options, _ = op_arguments((64, 128), (128, 128))
    change(options)
    given, w1 = list(given), options.pop("w1", None)
    if w1 is not None:
        given[1] = torch.zeros(given[1].shape, dtype=torch.bfloat16 if w1 == "bf16" else torch.float8_e5m2)
    with pytest.raises(switchyard.Error, match=text):
        torch.ops.switchyard.fused_experts(*given, **options)


def moe_of(block, **options):
    torch = torch_op()
    return switchyard.torch.MoE(H, I, E, K, expert_dtype=torch.float8_e4m3fn, weight_block=as_list(block), **options)


@pytest.mark.parametrize("block", [(128, 128), (64, 128), (1, WHOLE), (WHOLE, WHOLE)], ids=str)
def test_the_module_is_its_definition(block):
    torch = torch_op()
    w1, w2, router = arrays(SEED, block, block)
    module = moe_of(block)
    assert not any(p.requires_grad for p in module.experts.parameters())
    module.load_state_dict({
        "gate.weight": torch_bf16(router), "experts.gate_up_proj": as_torch(w1[0]), "experts.down_proj": as_torch(w2[0]),
        "experts.gate_up_proj_scale_inv": torch.from_numpy(w1[1]), "experts.down_proj_scale_inv": torch.from_numpy(w2[1])})
    hidden = rows(tokens=12)
    exact = experts_by_definition(hidden, w1[2], w2[2], *cases.softmax_top_k(hidden, router))
    with torch.no_grad():
        output = module(torch_bf16(hidden).view(3, 4, H))
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(torch_bf16(hidden).view(3, 4, H))
    assert cases.relative_error(output.view(-1, H).double().numpy(), exact) <= cases.TOLERANCE, SEED
    assert torch.equal(compiled, output)
    with pytest.raises(switchyard.Unsupported, match="requires grad"):
        module(torch_bf16(hidden).requires_grad_())


def test_a_module_converted_by_torch_is_refused():
    """to(dtype) leaves numbers that are no codes."""
    torch = torch_op()
    with torch.no_grad(), pytest.raises(switchyard.ShapeMismatch, match="w1"):
        moe_of((128, 128)).to(torch.bfloat16)(torch_bf16(rows()))
    with pytest.raises(switchyard.Unsupported, match="dtype=torch.float8_e5m2, need"):
        switchyard.torch.MoE(H, I, E, K, expert_dtype=torch.float8_e5m2)


@pytest.mark.parametrize("intermediate", (128, 192))
def test_the_module_has_the_names_and_shapes_of_transformers(intermediate):
    transformers = pytest.importorskip("transformers")
    torch = torch_op()
    from transformers.integrations.finegrained_fp8 import FP8Experts

    config = transformers.Qwen3MoeConfig(hidden_size=H, moe_intermediate_size=intermediate, num_experts=E)
    theirs = FP8Experts(config, block_size=(128, 128)).state_dict()
    ours = switchyard.torch.MoE(H, intermediate, E, K, expert_dtype=torch.float8_e4m3fn).experts
    assert {n: (t.shape, t.dtype) for n, t in ours.state_dict().items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
    ours.load_state_dict(theirs)


def wrong(**changes):
    block1, block2 = BLOCKS["blocks"]
    w1, w2, router = arrays(1, block1, block2)
    return layer_of(switchyard.LayerWeights(**{
        "w1": w1[0], "w2": w2[0], "order": switchyard.GateUpOrder.GateUp, "router": router, "w1_scales": w1[1],
        "w2_scales": w2[1], "w1_block": switchyard.ScaleBlock(rows=64), **changes}))


def zeros(dtype):
    return np.zeros((E, 2 * I, H), dtype)


WRONG = {
    "no scales": (dict(w1_scales=None), "w1"),
    "scales of other blocks": (dict(w1_block=switchyard.ScaleBlock()), "w1 scales"),
    "scales of float64": (dict(w2_scales=np.ones((E, 3, 2))), "w2 scales"),
    "columns": (dict(w1_block=switchyard.ScaleBlock(rows=64, cols=64)), "cols=64"),
    "bf16 with scales": (dict(w1=zeros(BF16)), "w1"),
    "signed bytes": (dict(w1=zeros(np.int8)), "LayerWeights: w1 has DLPack dtype code 0 of 8"),
    "one alone": (dict(w2=np.zeros((E, H, I), BF16), w2_scales=None), "w2"),
    "transposed": (dict(w1=np.zeros((E, H, 2 * I), F8), w2=np.zeros((E, I, H), F8), transposed=True), "transposed"),
    "interleaved": (dict(order=switchyard.GateUpOrder.Interleaved), "Interleaved"),
}


@pytest.mark.parametrize("changes, text", WRONG.values(), ids=WRONG)
def test_wrong_weights_are_refused_in_the_words_of_cpp(changes, text):
    with pytest.raises(ValueError) as raised:
        wrong(**changes)
    assert isinstance(raised.value, switchyard.Error) and text in str(raised.value)


@pytest.mark.parametrize("dtype", (ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e4m3))
def test_another_fp8_is_not_taken_for_e4m3fn(dtype):
    with pytest.raises(Exception, match="(?i)dlpack|dtype"):
        wrong(w1=zeros(dtype))


def test_rows_in_fp8_are_refused():
    block1, block2 = BLOCKS["blocks"]
    layer = layer_of(weights(*arrays(1, block1, block2), block1, block2))
    with pytest.raises(switchyard.ShapeMismatch, match="hidden is not bf16"):
        layer(rows().astype(F8))


# ---- over ranks


def test_a_split_over_ranks_has_the_bits_of_one_and_rows_travel_as_asked():
    hidden = [rows(r, tokens=7 + r) for r in range(2)]
    form = switchyard.fp8_blocks(CONFIG)
    whole = layer_of(switchyard.random_weights(CONFIG, 5, format=form))

    def body(c):
        mine = switchyard.random_weights(CONFIG, 5, num_ranks=c.size, rank=c.rank, format=form)
        assert mine.format == form
        summed = layer_of(mine, communicator=c, strategy="low_latency+masked", sums_at_source=True)(hidden[c.rank])
        layers = [layer_of(mine, communicator=c, strategy="normal+contiguous", fp8_rows=fp8) for fp8 in (True, False)]
        return summed, [layer.strategy.rows for layer in layers], [layer(hidden[c.rank]) for layer in layers]
    for r, (summed, travel, (quantised_rows, plain_rows)) in enumerate(over_ranks(body)):
        expected = whole(hidden[r])
        assert (cases.bits(summed) == cases.bits(expected)).all(), SEED
        assert travel == ["f8_e4m3", "bf16"]
        assert (cases.bits(quantised_rows) == cases.bits(plain_rows)).all(), SEED
        assert cases.relative_error(quantised_rows, expected.astype(np.float64)) <= cases.TOLERANCE


# ---- checkpoints


def write_safetensors(path, tensors):
    names = {np.dtype(F8): "F8_E4M3", np.dtype(np.float32): "F32", np.dtype(BF16): "BF16"}
    header, data = {}, b""
    for name, array in tensors.items():
        header[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder in fp8 with blocks of 128 x 128, and the same weights as arrays."""
    folder = tmp_path_factory.mktemp("fp8")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "qwen3_moe", "hidden_size": H, "moe_intermediate_size": I, "num_experts": E, "num_experts_per_tok": K,
        "num_hidden_layers": 1, "norm_topk_prob": False, "hidden_act": "silu",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}))
    rng = np.random.default_rng([SEED, 2])
    gate, up, down = (quantised(drawn(rng, E, *shape), 128, 128) for shape in ((I, H), (I, H), (H, I)))
    router = drawn(rng, E, H).astype(BF16)
    tensors = {"model.layers.0.mlp.gate.weight": router}
    for e in range(E):
        for name, (codes, scales, _) in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            tensors[f"model.layers.0.mlp.experts.{e}.{name}.weight"] = codes[e]
            tensors[f"model.layers.0.mlp.experts.{e}.{name}.weight_scale_inv"] = scales[e]
    write_safetensors(folder / "model.safetensors", tensors)
    # I is 1.5 blocks: in memory those of w1 have 64 rows.
    halves = [np.repeat(scales, 2, 1)[:, :I // 64] for _, scales, _ in (gate, up)]
    w1 = np.concatenate([gate[0], up[0]], 1), np.concatenate(halves, 1), np.concatenate([gate[2], up[2]], 1)
    return folder, (w1, down, router)


def test_a_native_checkpoint_has_the_bits_of_its_arrays(checkpoint):
    folder, (w1, w2, router) = checkpoint
    by_hand = layer_of(weights(w1, w2, router, (64, 128), (128, 128)))(rows())
    native = switchyard.MoeLayer.from_pretrained(folder, 0, weights="native", max_tokens=16, num_threads=1)
    assert (cases.bits(native(rows())) == cases.bits(by_hand)).all(), SEED
    opened = switchyard.Checkpoint(folder)
    assert opened.stored_format(0) == "fp8 in 128x128 blocks"
    loaded = opened.load_layer(0, weights="native")
    assert loaded.format == opened.native_format(0) == switchyard.fp8_blocks(opened.config(0))
    assert opened.load_layer(0).format == switchyard.ExpertFormat()
    plain = switchyard.MoeLayer.from_pretrained(folder, 0, max_tokens=16, num_threads=1)(rows())
    exact = cases.experts_by_definition(rows(), w1[2], w2[2], *cases.softmax_top_k(rows(), router))
    assert cases.relative_error(plain, exact) <= 6e-3  # weights are rounded to bf16, too
    assert (cases.bits(plain) != cases.bits(by_hand)).any()


def test_a_native_checkpoint_over_ranks_has_the_bits_of_one(checkpoint):
    folder, _ = checkpoint
    expected = switchyard.MoeLayer.from_pretrained(folder, 0, weights="native", max_tokens=16, num_threads=1)(rows())
    slots = [0, 1, 2, 3, 4, 5, 5, 0]

    def body(c):
        outputs = []
        for placement in ([], slots):
            layer = switchyard.MoeLayer.from_pretrained(folder, 0, weights="native", max_tokens=16, num_threads=1, communicator=c,
                                                        strategy="low_latency+masked", sums_at_source=True, placement=placement)
            outputs.append(layer(rows()))
        return outputs
    for outputs in over_ranks(body):
        for output in outputs:
            assert (cases.bits(output) == cases.bits(expected)).all(), SEED


def test_unknown_forms_are_refused_on_every_rank(checkpoint):
    folder, _ = checkpoint
    with pytest.raises(switchyard.Unsupported, match="load_layer: weights=fp4, known are bf16 and native"):
        switchyard.Checkpoint(folder).load_layer(0, weights="fp4")

    def body(c):
        with pytest.raises(switchyard.Error) as raised:
            switchyard.MoeLayer.from_pretrained(folder, 0, communicator=c, num_threads=1, weights="fp4" if c.rank else "native")
        return str(raised.value)
    first, second = over_ranks(body)
    assert first and "from_pretrained: weights=fp4" in second


def test_tensors_of_a_file_are_weights_and_arrays(checkpoint):
    folder, (w1, *_) = checkpoint
    stored = switchyard.TensorFile(folder / "model.safetensors").tensor("model.layers.0.mlp.experts.3.up_proj.weight")
    assert stored.dtype == "f8_e4m3" and stored.numpy().dtype == F8
    assert (stored.numpy().view(np.uint8) == w1[0][3, I:].view(np.uint8)).all()


def test_the_example_computes_its_experts():
    run = subprocess.run([sys.executable, SOURCE / "examples/python/fp8_experts.py"], capture_output=True, text=True, check=True)
    assert 0 < float(run.stdout) <= QUANTISED_ROWS
