# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/fp8_experts.py -- experts in fp8, with a scale for each row of their matrices."""
import ml_dtypes
import numpy as np
import switchyard

H, I, E, K = 256, 128, 8, 2
rng = np.random.default_rng(0)


def quantised(*shape):
    """f8_e4m3 [E, N, K] and f32 [E, N, 1]."""
    values = rng.standard_normal(shape).astype(np.float32) * shape[-1] ** -0.5
    scales = np.abs(values).max(-1, keepdims=True) / 448
    return (values / scales).astype(ml_dtypes.float8_e4m3fn), scales


config = switchyard.MoeConfig(hidden=H, intermediate=I, num_experts=E, top_k=K)
router = rng.standard_normal((E, H)).astype(ml_dtypes.bfloat16)
hidden = rng.standard_normal((32, H)).astype(ml_dtypes.bfloat16)
w1, w1_scales = quantised(E, 2 * I, H)
w2, w2_scales = quantised(E, H, I)

# [layer]
per_row = switchyard.ScaleBlock(rows=1, cols=switchyard.ScaleBlock.WHOLE)  # default: 128 x 128
weights = switchyard.LayerWeights(w1, w2, switchyard.GateUpOrder.GateUp, router=router,
                                  w1_scales=w1_scales, w2_scales=w2_scales,
                                  w1_block=per_row, w2_block=per_row)
layer = switchyard.MoeLayer(config, weights, max_tokens=32)
output = layer.forward(hidden)
# [layer]

print(switchyard.compare(output, switchyard.oracle_forward(config, weights, hidden)).rel_error)
