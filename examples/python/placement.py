# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/placement.py -- popular experts twice, over the ranks of torchrun.

    torchrun --nproc-per-node 2 examples/python/placement.py
"""
import pathlib

import switchyard

model = pathlib.Path(__file__).resolve().parents[2] / "data" / "tiny-code-moe"
io = switchyard.TensorFile(model / "moe_io.safetensors")
hidden = io.tensor("model.layers.1.mlp.input")
checkpoint = switchyard.Checkpoint(model)
config, everything = checkpoint.config(1), checkpoint.load_layer(1)
communicator = switchyard.make_process_rank()

# [plan]
counting = switchyard.MoeLayer(config, everything, max_tokens=512, count_loads=True)
counting.forward(hidden)
loads = counting.expert_loads  # i64 [E]; where ranks have other tokens: the sum over them
placement = switchyard.plan_placement(loads, num_slots=40, num_ranks=communicator.size)
slots = placement.physical_to_logical[0]  # the same on every rank
# [plan]

# [placed]
each = len(slots) // communicator.size
mine = slots[communicator.rank * each : (communicator.rank + 1) * each]
weights = switchyard.weights_of_slots(everything, mine)
layer = switchyard.MoeLayer(config, weights, max_tokens=512, communicator=communicator, placement=slots)
output = layer.forward(hidden)
# [placed]

error = switchyard.compare(output, io.tensor("model.layers.1.mlp.output_fp64")).rel_error
communicator.meet()
if communicator.rank == 0:
    print(f"busiest rank {placement.imbalance_before[0]:.3f} of the mean, placed {placement.imbalance[0]:.3f}, error {error:.1e}")
