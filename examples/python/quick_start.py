# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/quick_start.py -- a layer of a trained model, beside float64:

    pip install . && python examples/python/quick_start.py
"""
# [quick_start]
import switchyard
io = switchyard.TensorFile("data/tiny-code-moe/moe_io.safetensors")
layer = switchyard.MoeLayer.from_pretrained("data/tiny-code-moe", 1, max_tokens=512)
output = layer.forward(io.tensor("model.layers.1.mlp.input"))
print(switchyard.compare(output, io.tensor("model.layers.1.mlp.output_fp64")).rel_error)
# [quick_start]
