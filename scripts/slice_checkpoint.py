#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Cuts a checkpoint down to the tensors of its MoE layers.

Reads a folder with config.json, model.safetensors and moe_io.safetensors (oracle inputs and outputs of
every MoE block) and writes the same three files with the first --layers layers, their MoE tensors and
their `.input` and `.output_fp64` only.

    scripts/slice_checkpoint.py full/olmoe tests/data/olmoe --layers 1
"""
import argparse
import json
import pathlib
import re
import struct

MOE = re.compile(r"\.layers\.(\d+)\.(mlp|block_sparse_moe)\.")


def read(path):
    """name -> (dtype, shape, bytes)"""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    data = raw[8 + size :]
    return {n: (e["dtype"], e["shape"], data[slice(*e["data_offsets"])]) for n, e in header.items()}


def write(path, tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(d for _, _, d in tensors.values()))


def in_layers(name, layers):
    match = MOE.search(name)
    return match is not None and int(match.group(1)) < layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--layers", type=int, required=True, help="layers to keep, from the first")
    args = parser.parse_args()

    config = json.loads((args.source / "config.json").read_text())
    config["num_hidden_layers"] = args.layers
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][: args.layers]
    weights = {n: t for n, t in read(args.source / "model.safetensors").items() if in_layers(n, args.layers)}
    oracle = {
        n: t
        for n, t in read(args.source / "moe_io.safetensors").items()
        if in_layers(n, args.layers) and n.endswith((".input", ".output_fp64"))
    }
    args.target.mkdir(parents=True, exist_ok=True)
    (args.target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write(args.target / "model.safetensors", weights)
    write(args.target / "moe_io.safetensors", oracle)


if __name__ == "__main__":
    main()
