# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/transformers_model.py -- a model of transformers whose experts Switchyard runs."""
import torch
import transformers

config = transformers.Qwen3MoeConfig(
    vocab_size=128, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8, num_experts_per_tok=2)
model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
prompt = torch.arange(8).unsqueeze(0)

# [use]
import switchyard.transformers

switched = switchyard.transformers.use(model)  # ["model.layers.0.mlp.experts", ...]
tokens = model.generate(prompt, max_new_tokens=16, do_sample=False)
# [use]

assert switched == ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"] and tokens.shape[1] > 8
