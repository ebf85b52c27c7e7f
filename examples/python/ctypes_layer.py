# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/ctypes_layer.py -- a layer of a checkpoint on rows of a file, by the standard library alone:

    SWITCHYARD_C=libswitchyard_c.so.1 python3 ctypes_layer.py data/tiny-code-moe 1 rows.bf16 output.bf16
"""
import ctypes
import os
import pathlib
import sys
from ctypes import c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32, c_void_p

library = ctypes.CDLL(os.environ.get("SWITCHYARD_C", "libswitchyard_c.so.1"))
library.swy_last_error.restype = c_char_p
VERSION, BF16 = 1, 0  # of the header that the structs below are from


class Tensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("shape", c_int64 * 4), ("strides", c_int64 * 4), ("rank", c_int32),
                ("dtype", c_int32), ("device", c_int32), ("reserved", c_uint32 * 3)]


class Workspace(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("bytes", c_size_t)]


class Config(ctypes.Structure):
    _fields_ = [("size", c_size_t)] + [(name, c_int64) for name in "hidden intermediate num_experts top_k".split()] + [
        ("activation", c_int32), ("activation_alpha", c_float), ("activation_limit", c_float), ("scoring", c_int32),
        ("renormalize", c_int32), ("clamp_renormalizer", c_int32), ("renormalize_epsilon", c_float),
        ("scale", c_float), ("num_groups", c_int64), ("num_groups_kept", c_int64), ("group_score", c_int32),
        ("correction_bias", c_int32), ("jitter_epsilon", c_float), ("logit_softcap", c_float),
        ("vocabulary", c_int64), ("num_zero_experts", c_int64), ("expert_scale", c_int32),
        ("rms_of_hidden", c_int32), ("shared_intermediate", c_int64), ("shared_num_scored", c_int64),
        ("shared_sigmoid_gated", c_int32), ("shared_activation", c_int32), ("shared_activation_alpha", c_float),
        ("shared_activation_limit", c_float), ("expert_bias", c_int32), ("router_bias", c_int32),
        ("router_f32", c_int32), ("f32_sums", c_int32), ("path_latent", c_int64), ("path_input_norm", c_int32),
        ("path_output_norm", c_int32), ("path_norm_epsilon", c_float), ("router_weight_on_input", c_int32),
        ("ids_are_given", c_int32)]


class Options(ctypes.Structure):
    _fields_ = [("size", c_size_t)] + [
        (name, c_int64) for name in "max_tokens masked_max_tokens alignment workspace_limit_bytes".split()
    ] + [("strategy", c_char_p)] + [
        (name, c_int32) for name in "tp_size num_link_blocks token_pieces allow_repeated_experts use_all_gather fetch_rows"
        " host_counts peer_memory host_ordered poison_workspace workspace_per_call sums_at_source".split()
    ] + [("workspace", Workspace), ("shared_workspace", c_void_p)] + [
        (name, c_int32) for name in "out_of_range_ids strided_rows fp8_rows experts".split()
    ] + [("placement", c_void_p), ("num_slots", c_int64), ("count_loads", c_int32),
         ("lost_rank_timeout_ms", c_int32), ("gemm1", c_char_p), ("gemm2", c_char_p)]


class ForwardArgs(ctypes.Structure):
    _fields_ = [("size", c_size_t)] + [(name, Tensor) for name in "output hidden ids weights token_ids".split()] + [
        ("max_tokens", c_int64), ("stream", c_void_p), ("workspace", Workspace), ("expert_map", Tensor)]


def call(function, *arguments):
    """The exception of a status that is not good."""
    if getattr(library, function)(*arguments) != 0:
        raise RuntimeError(library.swy_last_error().decode())


def created(function, *arguments):
    handle = c_void_p()
    call(function, *arguments, ctypes.byref(handle))
    return handle


def initialised(struct, init):
    value = struct()
    call(init, ctypes.byref(value), c_size_t(ctypes.sizeof(struct)))
    return value


def rows_in(context, rows, columns):
    """Memory of the context's device for rows of bf16, and a view of it."""
    data, size = c_void_p(), c_size_t(rows * columns * 2)
    memory = c_void_p()
    call("swy_memory_create", context, size, ctypes.byref(memory), ctypes.byref(data))
    return memory, Tensor(data=data.value, shape=(rows, columns), rank=2, dtype=BF16)


def main(folder, number, source, target):
    # [layer]
    config = initialised(Config, "swy_config_init")
    options = initialised(Options, "swy_options_init")
    args = initialised(ForwardArgs, "swy_forward_args_init")

    context = created("swy_context_create", c_uint32(VERSION), None)
    checkpoint = created("swy_checkpoint_create", folder.encode(), None)
    call("swy_checkpoint_config", checkpoint, c_int64(number), ctypes.byref(config))
    weights = created("swy_weights_create_from_checkpoint", context, checkpoint, c_int64(number), c_int32(1), c_int32(0))

    rows = pathlib.Path(source).read_bytes()
    options.max_tokens = tokens = len(rows) // 2 // config.hidden
    layer = created("swy_layer_create", context, ctypes.byref(config), weights, None, ctypes.byref(options))
    (in_memory, args.hidden), (out_memory, args.output) = (rows_in(context, tokens, config.hidden) for _ in range(2))
    call("swy_copy_to_device", context, ctypes.byref(args.hidden), rows, None)
    call("swy_layer_forward", layer, ctypes.byref(args), None)
    call("swy_layer_wait", layer, None)
    result = ctypes.create_string_buffer(len(rows))
    call("swy_copy_to_host", context, result, ctypes.byref(args.output), None)
    # [layer]

    pathlib.Path(target).write_bytes(result.raw)
    for handle, kind in ((context, "context"), (checkpoint, "checkpoint"), (weights, "weights"), (layer, "layer"),
                         (in_memory, "memory"), (out_memory, "memory")):
        getattr(library, f"swy_{kind}_destroy")(handle)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
