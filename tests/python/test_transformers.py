# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""transformers: every class with the experts interface is switched and equal to its own forward, or refused."""
import importlib
import inspect
import os
import pathlib
import re
import runpy
import subprocess
import sys

import cases
import pytest
import switchyard
import switchyard.transformers
import torch
import transformers
from cases import SOURCE
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

H, I, E, K, TOKENS = 64, 32, 8, 2, 24
# Why a class is refused; all others are switched.
REFUSED = {
    "MuseSparkExperts": "each expert's row is normalised",
}
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "moe_latent_size"), H),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "expert_ffn_hidden_size", "expert_dim", "ffn_dim",
                     "moe_expert_hidden_size"), I),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"), E),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k"), K),
}


def decorated_classes():
    """Of every model in this version of transformers."""
    folder = pathlib.Path(transformers.__file__).parent / "models"
    for path in sorted(folder.glob("*/modeling_*.py")):
        if "\n@use_experts_implementation" not in (text := path.read_text()):
            continue
        for name in re.findall(r"\n@use_experts_implementation(?:\([^)]*\))?\s*\nclass (\w+)", text):
            yield pytest.param(f"transformers.models.{path.parent.name}.{path.stem}", name, id=name)


def config_class(module, experts):
    """By the constructor's annotation, or the model's first text config."""
    said = inspect.signature(inspect.unwrap(experts.__init__)).parameters["config"].annotation
    if isinstance(said, str):
        said = getattr(module, said, None)
    if inspect.isclass(said) and issubclass(said, transformers.PretrainedConfig) and said is not transformers.PretrainedConfig:
        return said
    configs = [c for n, c in sorted(vars(module).items()) if n.endswith("Config") and inspect.isclass(c)]
    return next((c for c in configs if "Text" in c.__name__), configs[0])


def make_experts(module_name, name):
    module = importlib.import_module(module_name)
    experts = getattr(module, name)
    config = config_class(module, experts)().get_text_config()
    for size, value in SIZES.items():
        if hasattr(config, size):
            given = getattr(config, size)
            setattr(config, size, [value] * len(given) if isinstance(given, (list, tuple)) else value)
    config._experts_implementation = "eager"
    takes_size = "intermediate_size" in inspect.signature(inspect.unwrap(experts.__init__)).parameters
    made = experts(config, **({"intermediate_size": I} if takes_size else {})).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.02 if parameter.dim() < 3 else 0.15))
    return made


def routed(made):
    """hidden, ids and weights for the sizes that the weights have."""
    width = made.down_proj.shape[2 if made.is_transposed else 1]
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, width, generator=generator).to(torch.bfloat16)
    ids = torch.stack([torch.randperm(made.down_proj.shape[0], generator=generator)[:K] for _ in range(TOKENS)])
    return hidden, ids, torch.rand(TOKENS, K, generator=generator).to(torch.bfloat16)


def distance(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("module_name, name", list(decorated_classes()))
def test_a_class_is_switched_and_equal_or_refused_with_the_reason(module_name, name):
    made = make_experts(module_name, name)
    if name in REFUSED:
        with pytest.raises(switchyard.Unsupported, match=REFUSED[name]):
            switchyard.transformers.experts_forward(made, *routed(made))
        return
    with torch.no_grad():
        single = made(*routed(made))
        exact = made.float()(*(t.float() if t.is_floating_point() else t for t in routed(made)))
        made.to(torch.bfloat16)
        grouped = ALL_EXPERTS_FUNCTIONS["grouped_mm"](made, *routed(made))
        made.config._experts_implementation = "switchyard"
        ours = made(*routed(made))
    assert ours.dtype == torch.bfloat16 and ours.shape == single.shape
    # The weights are bf16 in each; ours rounds least.
    assert distance(ours, exact) <= min(2 * max(distance(grouped, exact), distance(single, exact)), 1e-2)
    assert distance(exact, torch.zeros_like(exact) + 1e-9) > 1  # there is something to compare


def test_no_class_is_missed():
    names = [p.values[1] for p in decorated_classes()]
    assert len(names) >= 54 and "Qwen3MoeExperts" in names and "GptOssExperts" in names


# ---- models


def qwen3(**changes):
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=128, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True, eos_token_id=None, **changes)
    return transformers.Qwen3MoeForCausalLM(config).to(torch.bfloat16).eval()


PROMPT = torch.arange(12).unsqueeze(0) * 7 % 128


def test_a_model_is_switched_and_says_what():
    model = qwen3()
    with torch.no_grad():
        eager = model(PROMPT).logits
        names = switchyard.transformers.use(model)
        ours = model(PROMPT).logits
    assert names == [f"model.layers.{i}.mlp.experts" for i in range(3)]
    assert set(model.get_experts_implementation().values()) == {"switchyard"} or model.get_experts_implementation() == "switchyard"
    assert 0 < distance(ours, eager) < 2e-2  # another order of roundings: it did run


def test_generation_is_that_of_eager():
    model = qwen3()
    options = dict(max_new_tokens=24, do_sample=False, pad_token_id=0, return_dict_in_generate=True, output_logits=True)
    eager = model.generate(PROMPT, **options)
    switchyard.transformers.use(model)
    ours = model.generate(PROMPT, **options)
    for step, (a, b) in enumerate(zip(eager.logits, ours.logits)):
        best = a[0].float().topk(2).values
        if best[0] - best[1] > 0.05:  # nearer ones are a matter of rounding
            assert a.argmax() == b.argmax(), step
        if a.argmax() != b.argmax():
            break


def test_a_compiled_model_has_the_bits_of_the_model():
    model = qwen3()
    switchyard.transformers.use(model)
    with torch.no_grad():
        plain = model(PROMPT, use_cache=False).logits
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")(PROMPT, use_cache=False).logits
    assert torch.equal(plain, compiled)


def gpt_oss():
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        vocab_size=128, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=8, num_experts_per_tok=2, eos_token_id=None)
    model = transformers.GptOssForCausalLM(config).to(torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model


COMPILED = {
    "before its plan": (lambda: qwen3(), lambda m: m.set_experts_implementation("switchyard"), "nothing is known of its activation"),
    "with copied weights": (gpt_oss, switchyard.transformers.use, "its weights are copied"),
}


@pytest.mark.parametrize("make, switch, text", COMPILED.values(), ids=COMPILED)
def test_a_model_that_is_compiled_early_is_right_or_an_error(make, switch, text):
    model = make()
    with torch.no_grad():
        eager = model(PROMPT, use_cache=False).logits
        switch(model)
        with pytest.raises(Exception, match=text):  # as torch wraps it
            torch.compile(model, fullgraph=True, backend="aot_eager")(PROMPT, use_cache=False)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager")
        before = compiled(PROMPT, use_cache=False).logits
        assert torch.equal(before, model(PROMPT, use_cache=False).logits) and not torch.equal(before, eager)
        for layer in model.model.layers:
            layer.mlp.experts.down_proj.mul_(2)
        after = compiled(PROMPT, use_cache=False).logits
        assert not torch.equal(before, after) and torch.equal(after, model(PROMPT, use_cache=False).logits)


def test_gradients_are_those_of_grouped_mm_never_absent():
    def gradients(model):
        model.zero_grad()
        model(PROMPT, labels=PROMPT).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model = qwen3()
    for name, parameter in model.named_parameters():  # as LoRA has it: experts are frozen, attention is not
        parameter.requires_grad_("self_attn" in name)
    model.set_experts_implementation("grouped_mm")
    expected = gradients(model)
    switchyard.transformers.use(model)
    ours = gradients(model)
    assert expected.keys() == ours.keys() and len(ours) > 0
    assert all(torch.equal(expected[name], ours[name]) for name in expected)
    switchyard.transformers.use(model, training="refuse")
    with pytest.raises(switchyard.Unsupported, match="a tensor requires grad"):
        model(PROMPT)


def test_weights_that_change_are_copied_again():
    made = make_experts("transformers.models.gpt_oss.modeling_gpt_oss", "GptOssExperts")
    with torch.no_grad():
        before = switchyard.transformers.experts_forward(made, *routed(made))
        made.down_proj.mul_(2)
        made.down_proj_bias.mul_(2)
        after = switchyard.transformers.experts_forward(made, *routed(made))
    assert distance(after, 2 * before.float()) < 1e-2


def test_sentinels_of_expert_parallel_are_no_expert():
    made = make_experts("transformers.models.qwen3_moe.modeling_qwen3_moe", "Qwen3MoeExperts")
    hidden, ids, weights = routed(made)
    with torch.no_grad():
        ids[:, 1], weights[:, 1] = E, 0
        with pytest.raises(switchyard.BadRouting):
            switchyard.transformers.experts_forward(made, hidden, ids, weights)
        made._is_expert_parallel = True
        ours = switchyard.transformers.experts_forward(made, hidden, ids, weights)
        ids[:, 1] = 0  # with weight 0
        expected = switchyard.transformers.experts_forward(made, hidden, ids, weights)
    assert torch.equal(ours, expected)


def test_what_cannot_be_run_is_refused_and_nothing_changes():
    model = qwen3().float()
    with pytest.raises(switchyard.Unsupported, match="model.layers.0.mlp.experts: experts are float32, need bfloat16"):
        switchyard.transformers.use(model)
    assert "switchyard" not in str(model.get_experts_implementation())
    with pytest.raises(switchyard.Unsupported, match="no module with the experts interface"):
        switchyard.transformers.use(torch.nn.Linear(2, 2))
    with pytest.raises(switchyard.Unsupported, match="training=never"):
        switchyard.transformers.use(qwen3(), training="never")
    with pytest.raises(switchyard.Unsupported, match="its activation is none of Switchyard's"):
        switchyard.transformers.use(qwen3(hidden_act="tanh"))


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_an_activation_is_found_by_its_numbers(name):
    found = switchyard.transformers._activation_of(qwen3(hidden_act=name).model.layers[0].mlp.experts)
    assert found.name == {"gelu_pytorch_tanh": "gelu_tanh"}.get(name, name)


def test_an_implementation_may_be_named_when_a_model_is_made():
    model = transformers.AutoModelForCausalLM.from_config(
        qwen3().config, experts_implementation="switchyard", dtype=torch.bfloat16)
    with torch.no_grad():
        assert model(PROMPT).logits.isfinite().all()


def test_the_example_of_several_ranks_runs():
    pytest.importorskip("accelerate")
    if hasattr(switchyard.transformers, "SwitchyardEP"):
        pytest.skip("this transformers names expert parallelism otherwise: the example of expert parallel")
    assert "2 ranks, 4 experts each" in cases.torchrun(2, "transformers_ranks.py")


def needs_expert_parallel():
    if not hasattr(switchyard.transformers, "SwitchyardEP"):
        pytest.skip("this transformers has no expert-parallel interface")


def test_experts_over_ranks_are_those_of_one_process():
    needs_expert_parallel()
    assert "experts over the ranks are those of one process" in cases.torchrun(2, "expert_parallel.py")


def test_the_example_of_expert_parallel_runs():
    needs_expert_parallel()
    pytest.importorskip("accelerate")
    assert "2 ranks, 4 experts each" in cases.torchrun(2, "transformers_expert_parallel.py")


def test_200_tokens_of_the_trained_model_are_those_of_eager():
    run = subprocess.run([sys.executable, SOURCE / "examples" / "python" / "generate.py"], capture_output=True, text=True, check=False,
                         timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})  # small products, on machines that do other work
    assert run.returncode == 0, run.stderr
    assert "def __init__(self)" in run.stdout and "200 tokens as eager writes them" in run.stdout


def test_the_example_runs():
    runpy.run_path(str(SOURCE / "examples" / "python" / "transformers_model.py"))
