# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/ranks.py -- one layer over the ranks of torchrun, each with its own tokens.

    torchrun --nproc-per-node 2 examples/python/ranks.py
"""
import pathlib

import switchyard

model = pathlib.Path(__file__).resolve().parents[2] / "data" / "tiny-code-moe"
io = switchyard.TensorFile(model / "moe_io.safetensors")
hidden = io.tensor("model.layers.1.mlp.input")

# [ranks]
communicator = switchyard.make_process_rank()  # RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
layer = switchyard.MoeLayer.from_pretrained(model, 1, max_tokens=512, communicator=communicator)
output = layer.forward(hidden)  # the tokens of this rank; its experts see those of all
# [ranks]

error = switchyard.compare(output, io.tensor("model.layers.1.mlp.output_fp64")).rel_error
communicator.meet()
if communicator.rank == 0:
    print(f"{communicator.size} ranks, {layer.strategy.name}, error {error:.1e}")
