# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""torch on a GPU, at the sizes of a model: memory is the caller's, graphs replay, a row has its bits in any batch."""
import pytest
import switchyard
import switchyard.torch
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
H, I, E, K = 2048, 768, 128, 8
OP = torch.ops.switchyard.fused_experts
OP_OUT = torch.ops.switchyard.fused_experts_out
MANY = 4097
PICKED = (0, 1234, MANY - 1)  # of MANY rows


@pytest.fixture(scope="module")
def experts():
    """w1 bf16 [E, 2I, H], w2 bf16 [E, H, I]."""
    generator = torch.Generator("cuda").manual_seed(0)

    def bf16(*shape):
        return (torch.randn(shape, generator=generator, device="cuda") * shape[-1] ** -0.5).bfloat16()

    return bf16(E, 2 * I, H), bf16(E, H, I)


HOPPER = pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0),
                            reason="experts in fp8 need compute capability 9.0")
F8 = torch.float8_e4m3fn


def in_fp8(weight, rows, cols):
    """f8_e4m3 of weight [E, N, K], scales f32, and the numbers that these are as bf16 holds them, nearly."""
    blocks = weight.float().unflatten(1, (-1, rows)).unflatten(3, (-1, cols))
    scales = blocks.abs().amax((2, 4), keepdim=True) / 448
    codes = (blocks / scales).to(F8)
    return codes.flatten(3).flatten(1, 2), scales[:, :, 0, :, 0].contiguous(), (codes.float() * scales).flatten(3).flatten(1, 2)


def assert_replays_have_the_bits_of_eager_calls(call, tokens, count):
    """Of a graph of call(hidden, ids, weights), whose inputs change in place between replays."""
    static = routed(tokens)
    for _ in range(2):
        call(*static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call(*static)
    for seed in range(count):
        given = routed(tokens, seed)
        expected = call(*given)
        for place, tensor in zip(static, given):
            place.copy_(tensor)
        output.fill_(torch.nan)
        graph.replay()
        assert same_bits(output, expected), seed
    assert output.float().norm() > 0


FP8_BLOCKS = {
    "blocks": ((128, 128), (128, 128)),
    "narrow": ((64, 128), (16, 256)),
    "gate and up together": ((2 * I, 128), (128, 128)),
    "channel": ((1, H), (1, I)),
    "one": ((2 * I, H), (H, I)),
}


@HOPPER
@pytest.mark.parametrize("tokens", [1, 16, 512])
@pytest.mark.parametrize("block1, block2", FP8_BLOCKS.values(), ids=FP8_BLOCKS)
def test_experts_in_fp8_are_near_their_numbers_and_replay(experts, block1, block2, tokens):
    w1, scales1, exact1 = in_fp8(experts[0], *block1)
    w2, scales2, exact2 = in_fp8(experts[1], *block2)

    def blocks(block, whole):
        return [-1 if n == w else n for n, w in zip(block, whole)]

    def call(hidden, ids, weights):
        return OP(hidden, w1, w2, ids, weights, order="gate_up", w1_scales=scales1, w2_scales=scales2,
                  w1_block=blocks(block1, (2 * I, H)), w2_block=blocks(block2, (H, I)))

    given = routed(tokens)
    output, expected = call(*given), by_definition(*given, (exact1, exact2))
    assert float((output.double() - expected).norm() / expected.norm()) <= 0.065  # docs/design/fp8.md: rows are quantised
    assert_replays_have_the_bits_of_eager_calls(call, tokens, 10)


@HOPPER
def test_a_row_of_experts_in_fp8_has_its_bits_in_any_batch_and_those_of_the_cpu(experts):
    few = slice(0, 8)
    w1, scales1, _ = in_fp8(experts[0][few], 128, 128)
    w2, scales2, _ = in_fp8(experts[1][few], 128, 128)
    hidden, ids, weights = routed(MANY)
    ids = torch.rand(MANY, 8, device="cuda").argsort(-1)

    def call(rows, device="cuda"):
        given = (t.to(device) for t in (hidden[rows], w1, w2, ids[rows], weights[rows]))
        return OP(*given, order="gate_up", w1_scales=scales1.to(device), w2_scales=scales2.to(device))

    whole = call(slice(None))
    for row in PICKED:
        assert same_bits(call([row]), whole[[row]]), row
    on_cpu = call(list(PICKED), "cpu").double()  # tensor cores keep fewer bits of a sum
    assert float((whole[list(PICKED)].double().cpu() - on_cpu).norm() / on_cpu.norm()) <= 4e-3


@HOPPER
def test_a_module_in_fp8_compiles(experts):
    moe = switchyard.torch.MoE(H, I, E, K, expert_dtype=F8, device="cuda")
    with torch.no_grad():
        moe.gate.weight.normal_(std=H**-0.5)
        for name, weight in zip(("gate_up_proj", "down_proj"), experts):
            codes, scales, _ = in_fp8(weight, 128, 128)
            getattr(moe.experts, name).copy_(codes)
            getattr(moe.experts, f"{name}_scale_inv").copy_(scales)
        hidden = routed(33)[0]
        assert same_bits(torch.compile(moe, fullgraph=True, dynamic=True)(hidden), moe(hidden))


@pytest.fixture
def layer(experts):
    config = switchyard.MoeConfig(hidden=H, intermediate=I, num_experts=E, top_k=K)
    return switchyard.MoeLayer(config, switchyard.LayerWeights(*experts, switchyard.GateUpOrder.GateUp), max_tokens=MANY)


def routed(tokens, seed=0):
    """hidden bf16 [T, H], ids i64 [T, K], weights f32 [T, K]; some experts are chosen more often."""
    generator = torch.Generator("cuda").manual_seed(1000 * tokens + seed)
    hidden = torch.randn(tokens, H, generator=generator, device="cuda").bfloat16()
    logits = torch.randn(tokens, E, generator=generator, device="cuda") + torch.linspace(0, 2, E, device="cuda")
    weights, ids = logits.softmax(-1).topk(K)
    return hidden, ids, weights


def operation(hidden, ids, weights, experts):
    return OP(hidden, *experts, ids, weights, order="gate_up")


def same_bits(a, b):
    return torch.equal(a.view(torch.uint16), b.view(torch.uint16))


def by_definition(hidden, ids, weights, experts):
    result = torch.zeros(hidden.shape, dtype=torch.float64, device="cuda")
    for e in ids.unique().tolist():
        row, slot = (ids == e).nonzero(as_tuple=True)
        gate, up = (hidden[row].double() @ experts[0][e].double().T).chunk(2, -1)
        rows = (torch.nn.functional.silu(gate) * up) @ experts[1][e].double().T
        result.index_add_(0, row, weights[row, slot].double()[:, None] * rows)
    return result


def test_a_layer_uses_the_callers_memory_alone(layer, experts):
    hidden, ids, weights = routed(64)
    output = torch.full_like(hidden, torch.nan)
    place = output.data_ptr()
    layer.forward(hidden, ids=ids, weights=weights, output=output)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    output.fill_(torch.nan)
    assert layer.forward(hidden, ids=ids, weights=weights, output=output) is output
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    layer.wait(torch.cuda.current_stream().cuda_stream)
    assert output.data_ptr() == place
    expected = by_definition(hidden, ids, weights, experts)
    assert float((output.double() - expected).norm() / expected.norm()) <= 4e-3
    new = layer.forward(hidden, ids=ids, weights=weights)
    assert same_bits(new, output) and new.data_ptr() != place


def test_the_operation_writes_where_it_is_told(experts):
    hidden, ids, weights = routed(64)
    memory = torch.full((66, H), torch.nan, dtype=torch.bfloat16, device="cuda")
    OP_OUT(hidden, *experts, ids, weights, order="gate_up", out=memory[1:65])
    switchyard.torch.check()
    assert same_bits(memory[1:65], operation(hidden, ids, weights, experts)) and memory[[0, 65]].isnan().all()


@pytest.mark.parametrize("tokens", [1, 16, 512])
@pytest.mark.parametrize("how", ["layer", "operation"])
def test_200_replays_have_the_bits_of_eager_calls(layer, experts, how, tokens):
    """Inputs change in place between replays: kernels read the caller's memory."""
    def call(hidden, ids, weights):
        if how == "layer":
            return layer.forward(hidden, ids=ids, weights=weights)
        return operation(hidden, ids, weights, experts)

    assert_replays_have_the_bits_of_eager_calls(call, tokens, 200)


def test_opcheck(experts):
    hidden, ids, weights = routed(9)
    torch.library.opcheck(OP.default, (hidden, *experts, ids, weights), {"order": "gate_up"})
    torch.library.opcheck(OP_OUT.default, (hidden, *experts, ids, weights), {"order": "gate_up", "out": torch.empty_like(hidden)})


def test_nothing_is_compiled_after_the_second_number_of_tokens(experts):
    compiled = []

    def count(graph, _):
        compiled.append(graph)
        return graph.forward

    fast = torch.compile(operation, fullgraph=True, dynamic=True, backend=count)
    for number, tokens in enumerate((1, 2, 5, 129, 4096)):
        assert same_bits(fast(*routed(tokens), experts), operation(*routed(tokens), experts))
        if number == 1:
            after_two = len(compiled)
    assert len(compiled) == after_two <= 2


@pytest.mark.parametrize("keeps_view", (False, True))
def test_rows_written_where_peers_fetch_them_give_the_same_bits(experts, keeps_view):
    """Two ranks of one GPU, threads with a stream each. A view lives on when the layer has grown."""
    import threading

    meet, tokens = threading.Barrier(2), 65
    failed = []

    def body(c):
        backend = switchyard.make_cuda_backend(0, num_sms=32)
        mine = slice(c.rank * E // 2, (c.rank + 1) * E // 2)
        config = switchyard.MoeConfig(hidden=H, intermediate=I, num_experts=E, top_k=K)
        layer = switchyard.MoeLayer(
            config, switchyard.LayerWeights(experts[0][mine], experts[1][mine], switchyard.GateUpOrder.GateUp),
            max_tokens=tokens, backend=backend, communicator=c, strategy="normal+contiguous")
        hidden, ids, weights = routed(tokens, c.rank)
        elsewhere, here = torch.empty_like(hidden), torch.empty_like(hidden)
        place = torch.from_dlpack(layer.input_rows)
        assert place.shape == (tokens, H) and place.dtype == torch.bfloat16 and place.data_ptr() % 16 == 0
        place.copy_(hidden)
        torch.cuda.current_stream().synchronize()
        meet.wait()
        layer.forward(hidden, ids=ids, weights=weights, output=elsewhere)
        layer.forward(place, ids=ids, weights=weights, output=here)
        layer.wait(torch.cuda.current_stream().cuda_stream)
        meet.wait()
        assert same_bits(here, elsewhere) and same_bits(place, hidden)
        if not keeps_view:
            place = None
        layer.grow(4 * tokens, torch.cuda.current_stream().cuda_stream)
        assert layer.input_rows.shape == (4 * tokens, H)
        assert place is None or same_bits(place, hidden)
        meet.wait()

    def run(c):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                body(c)
        except BaseException as error:
            failed.append(error)
            meet.abort()

    threads = [threading.Thread(target=run, args=(c,)) for c in switchyard.make_local_ranks(2, deadline=30.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_a_placement_swaps_between_replays_and_loads_are_counted(layer, experts):
    """On one rank no bit depends on where experts are."""
    generator = torch.Generator().manual_seed(3)

    def table():
        return torch.cat([torch.arange(E), torch.randint(E, (E // 2,), generator=generator)])[torch.randperm(E + E // 2, generator=generator)]

    slots = table()
    w1, w2 = (w[slots.cuda()] for w in experts)
    weights = switchyard.LayerWeights(w1, w2, switchyard.GateUpOrder.GateUp, num_slots=len(slots))
    placed = switchyard.MoeLayer(layer.config, weights, max_tokens=64, placement=slots.tolist(), count_loads=True)
    loads = torch.from_dlpack(placed.expert_loads)
    static = routed(64)
    for _ in range(2):
        placed.forward(static[0], ids=static[1], weights=static[2])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = placed.forward(static[0], ids=static[1], weights=static[2])
    loads.zero_()
    expected_loads = torch.zeros(E, dtype=torch.int64, device="cuda")
    for seed in range(20):
        given = routed(64, seed)
        for place, tensor in zip(static, given):
            place.copy_(tensor)
        output.fill_(torch.nan)
        graph.replay()
        assert same_bits(output, layer.forward(given[0], ids=given[1], weights=given[2])), seed
        expected_loads += torch.bincount(given[1].flatten(), minlength=E)
        slots = table()
        for mine, all_experts in zip((w1, w2), experts):
            mine.copy_(all_experts[slots.cuda()])
        placed.set_placement(slots.tolist(), torch.cuda.current_stream().cuda_stream)
    assert loads.dtype == torch.int64 and torch.equal(loads, expected_loads)


def test_experts_in_fp8_are_their_definition(layer):
    generator = torch.Generator("cuda").manual_seed(4)

    def drawn(*shape):
        """Codes, a scale for each 128 x 128, and the numbers that these are."""
        codes = (100 * torch.randn(shape, generator=generator, device="cuda")).clamp(-448, 448).to(torch.float8_e4m3fn)
        scales = torch.rand(shape[0], shape[1] // 128, shape[2] // 128, generator=generator, device="cuda") * (0.02 * shape[2] ** -0.5)
        return codes, scales, codes.float() * scales.repeat_interleave(128, 1).repeat_interleave(128, 2)

    (w1, s1, n1), (w2, s2, n2) = drawn(E, 2 * I, H), drawn(E, H, I)
    hidden, ids, weights = routed(64)
    outputs = []
    for first, second in ((w1, w2), (w1.view(torch.uint8), w2.view(torch.uint8))):
        given = switchyard.LayerWeights(first, second, switchyard.GateUpOrder.GateUp, w1_scales=s1, w2_scales=s2)
        fp8 = switchyard.MoeLayer(layer.config, given, max_tokens=64)
        outputs.append(fp8.forward(hidden, ids=ids, weights=weights))
    expected = by_definition(hidden, ids, weights, (n1, n2))
    assert 0.01 < float((outputs[0].double() - expected).norm() / expected.norm()) <= 0.065  # docs/design/fp8.md
    assert same_bits(*outputs)


# ---- the bits of a row alone and among others


def assert_rows_have_their_bits(call):
    """call(hidden, ids, weights)"""
    hidden, ids, weights = routed(MANY)
    together = call(hidden, ids, weights)
    for row in PICKED:
        alone = call(*(t[row:row + 1].clone() for t in (hidden, ids, weights)))
        assert same_bits(alone, together[row:row + 1]), row
    assert together.float().norm() > 0 and not together.isnan().any()


def test_of_the_operation(experts):
    assert_rows_have_their_bits(lambda *rows: operation(*rows, experts))


def test_of_transformers(experts):
    transformers = pytest.importorskip("transformers")
    import switchyard.transformers  # noqa: F401  # the implementation
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    config = transformers.Qwen3MoeConfig(hidden_size=H, moe_intermediate_size=I, num_experts=E, num_experts_per_tok=K)
    config._experts_implementation = "switchyard"
    with torch.device("meta"):
        made = Qwen3MoeExperts(config)
    made.gate_up_proj, made.down_proj = (torch.nn.Parameter(w, requires_grad=False) for w in experts)
    assert_rows_have_their_bits(lambda hidden, ids, weights: made(hidden, ids, weights.bfloat16()))


@pytest.fixture
def vllm(monkeypatch):
    import engine_stub
    import stub_vllm
    from switchyard import _engines

    monkeypatch.setenv(_engines.VARIABLE, "1")
    monkeypatch.setattr(stub_vllm.current_platform, "family", 90)
    engine_stub.install(stub_vllm)
    _engines.register_vllm()
    yield stub_vllm
    stub_vllm.op_registry_oot.clear()
    engine_stub.remove("vllm", "switchyard.vllm")


def test_of_vllms_class(experts, vllm):
    from test_vllm import make_layer, run, uses_switchyard

    config = vllm.FusedMoEConfig(num_experts=E, experts_per_token=K, hidden_dim=H)
    made, method = make_layer(config, *experts)
    assert uses_switchyard(method)
    assert_rows_have_their_bits(lambda hidden, ids, weights: run(made, method, hidden, weights, ids.int()))
