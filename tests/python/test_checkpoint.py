# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint, MoeConfig and what they say."""
import cases
import pytest
import switchyard
from cases import MODEL


def test_a_checkpoint_says_what_its_layers_are():
    checkpoint = switchyard.Checkpoint(MODEL)
    assert checkpoint.family == "qwen3_moe" and checkpoint.moe_layers[0] in range(checkpoint.num_layers)
    assert checkpoint.module_path(1) == "model.layers.1.mlp" and checkpoint.stored_format(1) == "bf16"
    assert checkpoint.quant_method == ""
    config = checkpoint.config(1)
    assert (config.hidden, config.intermediate, config.num_experts, config.top_k) == (192, 96, 32, 4)
    assert config.gate.scoring is switchyard.Scoring.Softmax and config.gate.renormalize
    assert repr(config) == "<MoeConfig H 192, I 96, E 32, K 4, silu, softmax then top-k, renormalised>"


def test_loaded_weights_are_those_that_from_pretrained_takes():
    checkpoint = switchyard.Checkpoint(str(MODEL))
    by_hand = switchyard.MoeLayer(checkpoint.config(1), checkpoint.load_layer(1), max_tokens=64, num_threads=1)
    at_once = switchyard.MoeLayer.from_pretrained(str(MODEL), 1, max_tokens=64, num_threads=1)
    hidden = switchyard.TensorFile(MODEL / "moe_io.safetensors").tensor("model.layers.1.mlp.input").numpy()[:64]
    assert (cases.bits(by_hand(hidden)) == cases.bits(at_once(hidden))).all()


def test_fields_have_the_defaults_of_cpp_and_may_be_set():
    config = switchyard.MoeConfig()
    assert config.activation == switchyard.Activation("silu") and config.gate == switchyard.GateConfig()
    assert config.shared.activation is None and config.gate.jitter_epsilon == pytest.approx(0.01)
    config.gate.renormalize = True
    config.activation = switchyard.Activation("clamped_swiglu", limit=5)
    assert config.gate.renormalize and config.activation.limit == 5 and config.activation.gated
    assert switchyard.MoeConfig(activation="relu2").activation.gated is False
    with pytest.raises(switchyard.ShapeMismatch):
        config.validate()
    with pytest.raises(TypeError):
        switchyard.MoeConfig(hiden=3)


def test_random_weights_are_equal_for_equal_seeds():
    config, hidden = cases.config(), cases.rows()
    layers = [switchyard.MoeLayer(config, switchyard.random_weights(config, seed), max_tokens=16, num_threads=1)
              for seed in (3, 3, 4)]
    outputs = [cases.bits(layer(hidden)) for layer in layers]
    assert (outputs[0] == outputs[1]).all() and (outputs[0] != outputs[2]).any()
