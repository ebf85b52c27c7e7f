# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' experts in fp8: run and equal to their definition, or refused with the reason."""
import cases
import numpy as np
import pytest
import switchyard
import switchyard.transformers
import test_fp8
import torch
import transformers
from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS, FP8Experts
from transformers.integrations.moe import use_experts_implementation

H, I, E, K, T = 320, 256, 6, 2, 21
SEED = np.random.SeedSequence().entropy  # of this run; a failure prints it
GRADIENTS = hasattr(transformers.integrations.finegrained_fp8, "FP8GroupedMatmulFunction")


def config(**changes):
    return transformers.Qwen3MoeConfig(
        vocab_size=128, hidden_size=H, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_experts=E, num_experts_per_tok=K, eos_token_id=None, **{"moe_intermediate_size": I, **changes})


def fill(experts, seed=0):
    """Weights quantised in the blocks of a module, and the numbers that these are as float64, w1 and w2."""
    rng = np.random.default_rng([SEED, seed])
    exact = []
    for name in ("gate_up_proj" if experts.has_gate else "up_proj", "down_proj"):
        weight, scales = getattr(experts, name), getattr(experts, name + "_scale_inv")
        codes, values, numbers = test_fp8.quantised(test_fp8.drawn(rng, *weight.shape), *experts.block_size)
        if scales.dtype == torch.float8_e8m0fnu:  # of the codes as they are: another number
            values = 2.0 ** np.round(np.log2(values))
            blocks = np.repeat(np.repeat(values, experts.block_size[0], 1), experts.block_size[1], 2)
            numbers = codes.astype(np.float64) * blocks[:, :weight.shape[1], :weight.shape[2]]
        weight.data.copy_(test_fp8.as_torch(codes))
        scales.data.copy_(torch.from_numpy(values).to(scales.dtype))
        exact.append(numbers)
    return exact


def made(*, block=(128, 128), gate=True, changes={}, **options):
    """A module of experts as transformers makes it for a model in fp8, without its weights."""
    of = config(**changes)
    of._experts_implementation = "switchyard"
    new = type("FP8Experts", (FP8Experts,), {})
    use_experts_implementation(experts_class=new, experts_interface=ALL_FP8_EXPERTS_FUNCTIONS, has_gate=gate)
    return new(of, block_size=block, has_gate=gate, **options)


def routed(tokens=T, seed=1):
    rng = np.random.default_rng([SEED, seed])
    ids = np.argsort(rng.random((tokens, E)), axis=1)[:, :K]
    return cases.bf16(rng, tokens, H), ids, rng.random((tokens, K), np.float32)


def as_torch(hidden, ids, weights):
    return test_fp8.torch_bf16(hidden), torch.from_numpy(ids), torch.from_numpy(weights)


def by_definition(hidden, w1, w2, ids, weights, activation):
    x, result = test_fp8.q128(hidden), np.zeros((len(hidden), H))
    for t in range(len(x)):
        for e, weight in zip(ids[t], weights[t]):
            result[t] += weight * (w2[e] @ test_fp8.q128(activation(w1[e] @ x[t])))
    return result


def silu(x):
    return x / (1 + np.exp(-x))


def swiglu(both):
    gate, up = np.split(both, 2)
    return silu(gate) * up


def clamped(both):
    gate, up = np.split(both, 2)
    return silu(np.minimum(gate, 0.4)) * np.clip(up, -0.4, 0.4)


RUN = {
    "blocks": (dict(), swiglu),
    "a block with gate and up": (dict(changes=dict(moe_intermediate_size=192)), swiglu),
    "wider blocks": (dict(block=(64, 256)), swiglu),
    "powers of two": (dict(scale_fmt="ue8m0"), swiglu),
    "clamped": (dict(changes=dict(swiglu_limit=0.4)), clamped),
    "no gate": (dict(gate=False, changes=dict(hidden_act="relu2")), lambda x: np.maximum(x, 0) ** 2),
}


@pytest.mark.parametrize("options, activation", RUN.values(), ids=RUN)
def test_experts_are_their_definition(options, activation):
    experts = made(**options)
    w1, w2 = fill(experts)
    hidden, ids, weights = routed()
    with torch.no_grad():
        output = experts(*as_torch(hidden, ids, weights))
    assert output.dtype == torch.bfloat16
    exact = by_definition(hidden, w1, w2, ids, weights, activation)
    assert cases.relative_error(output.double().numpy(), exact) <= cases.TOLERANCE, SEED
    rows_not_quantised = sum_of_experts(hidden, w1, w2, ids, weights, activation)
    assert cases.relative_error(output.double().numpy(), rows_not_quantised) <= test_fp8.QUANTISED_ROWS, SEED


def sum_of_experts(hidden, w1, w2, ids, weights, activation):
    x, result = hidden.astype(np.float64), np.zeros((len(hidden), H))
    for t in range(len(x)):
        for e, weight in zip(ids[t], weights[t]):
            result[t] += weight * (w2[e] @ activation(w1[e] @ x[t]))
    return result


REFUSED = {
    "static": (dict(activation_scheme="static"), r"rows have scales of the checkpoint \(activation_scheme=static\), need dynamic"),
    "per tensor": (dict(block=None), "a matrix has one scale"),
    "narrow blocks": (dict(block=(64, 64)), r"weight_block_size=\(64, 64\), need a multiple of 128 columns"),
    "rows of MXFP8": (dict(block=(1, 32), scale_fmt="ue8m0"), r"weight_block_size=\(1, 32\), need"),
    "gate and up below a block": (dict(changes=dict(moe_intermediate_size=64)), r"gate_up_proj_scale_inv is \[6, 2, 3\], need \[6, 1, 3\]"),
    "odd sizes": (dict(changes=dict(moe_intermediate_size=132)), "I=132, need multiples of 8"),
    "activation": (dict(changes=dict(hidden_act="tanh")), "its activation is none of Switchyard's"),
}


@pytest.mark.parametrize("options, text", REFUSED.values(), ids=REFUSED)
def test_experts_are_refused_with_the_reason(options, text):
    experts = made(**options)
    with torch.no_grad(), pytest.raises(switchyard.Unsupported, match=text):
        experts(*as_torch(*routed()))


CHANGED = {
    "dequantised": (lambda m: m.to(torch.bfloat16), "experts are bfloat16, need float8_e4m3fn"),
    "fp4": (lambda m: setattr(m, "gate_up_proj", torch.nn.Parameter(torch.zeros(E, 2 * I, H // 2, dtype=torch.int8), requires_grad=False)),
            "experts are int8, need float8_e4m3fn"),
    "another fp8": (lambda m: setattr(m, "down_proj", torch.nn.Parameter(m.down_proj.to(torch.float8_e5m2))), "need float8_e4m3fn"),
    "scales of bf16": (lambda m: setattr(m, "down_proj_scale_inv", torch.nn.Parameter(m.down_proj_scale_inv.bfloat16())),
                       "scales are bfloat16, need float32 or float8_e8m0fnu"),
    "no memory": (lambda m: m.to("meta"), "weights are on the meta device"),
}


@pytest.mark.parametrize("change, text", CHANGED.values(), ids=CHANGED)
def test_weights_that_are_others_are_refused(change, text):
    experts = made()
    change(experts)
    with torch.no_grad(), pytest.raises(switchyard.Unsupported, match=text):
        experts(*as_torch(*routed()))


def test_scales_that_change_are_seen():
    for scale_fmt in ("float", "ue8m0"):
        experts = made(scale_fmt=scale_fmt)
        fill(experts)
        given = as_torch(*routed())
        with torch.no_grad():
            before = experts(*given)
            experts.down_proj_scale_inv.copy_(experts.down_proj_scale_inv.float() * 2)
            assert torch.equal(experts(*given), 2 * before), SEED


def test_a_gradient_is_transformers_own_or_an_error():
    """Weights in fp8 have none; that they say so matters not."""
    experts = made()
    fill(experts)
    hidden, ids, weights = as_torch(*routed())
    assert experts.gate_up_proj.requires_grad and not experts(hidden, ids, weights).requires_grad
    called = []
    own = ALL_FP8_EXPERTS_FUNCTIONS["grouped_mm"]
    ALL_FP8_EXPERTS_FUNCTIONS["grouped_mm"] = lambda module, *given: called.append(module) or given[0]
    try:
        if GRADIENTS:
            experts(hidden.requires_grad_(), ids, weights)
            assert called == [experts]
        else:
            with pytest.raises(switchyard.Unsupported, match="experts in fp8 have none in this version of transformers"):
                experts(hidden.requires_grad_(), ids, weights)
    finally:
        ALL_FP8_EXPERTS_FUNCTIONS["grouped_mm"] = own


def test_sentinels_of_expert_parallel_are_no_expert():
    experts = made()
    fill(experts)
    hidden, ids, weights = as_torch(*routed())
    ids[:, 1], weights[:, 1] = E, 0
    with torch.no_grad():
        with pytest.raises(switchyard.BadRouting):
            experts(hidden, ids, weights)
        experts._is_expert_parallel = True
        ours = experts(hidden, ids, weights)
        ids[:, 1] = 0
        assert torch.equal(ours, experts(hidden, ids, weights))


# ---- models


def model_in_fp8(**changes):
    """As a checkpoint in fp8 is loaded, with experts in fp8 and all else in bf16; and w1, w2 of each layer as float64."""
    torch.manual_seed(0)
    model = transformers.Qwen3MoeForCausalLM(config()).to(torch.bfloat16).eval()
    transformers.integrations.finegrained_fp8.replace_with_fp8_linear(
        model, modules_to_not_convert=[r".*\.self_attn\.\w+", "lm_head", "gate"],
        quantization_config=transformers.FineGrainedFP8Config(**changes), pre_quantized=True)
    experts = [layer.mlp.experts.to_empty(device="cpu") for layer in model.model.layers]
    return model, [] if changes else [fill(module, i) for i, module in enumerate(experts)]


PROMPT = torch.arange(12).unsqueeze(0) * 7 % 128


def test_a_model_is_switched_and_each_of_its_layers_is_the_definition():
    model, numbers = model_in_fp8()
    assert switchyard.transformers.use(model) == [f"model.layers.{i}.mlp.experts" for i in range(2)]
    seen = []
    for layer in model.model.layers:
        layer.mlp.experts.register_forward_hook(lambda module, given, output: seen.append((*given, output)))
    with torch.no_grad():
        assert model(PROMPT).logits.isfinite().all()
    for (hidden, ids, weights, output), (w1, w2) in zip(seen, numbers, strict=True):
        hidden, weights, output = (t.double().numpy() for t in (hidden, weights, output))
        exact = by_definition(hidden, w1, w2, ids.numpy(), weights, swiglu)
        assert cases.relative_error(output.reshape(-1, H), exact) <= cases.TOLERANCE, SEED


def test_a_compiled_model_has_the_bits_of_the_model():
    model, _ = model_in_fp8()
    switchyard.transformers.use(model)  # makes the plans: the model is compiled before its first call
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(PROMPT).logits
        assert torch.equal(compiled, model(PROMPT).logits), SEED


def test_a_model_that_cannot_be_run_is_refused_and_nothing_changes():
    model, _ = model_in_fp8(activation_scheme="static")
    before = model.get_experts_implementation()
    with pytest.raises(switchyard.Unsupported, match="model.layers.0.mlp.experts: rows have scales of the checkpoint"):
        switchyard.transformers.use(model)
    assert model.get_experts_implementation() == before
