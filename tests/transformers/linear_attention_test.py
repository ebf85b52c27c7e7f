#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of linear attention against the pure PyTorch functions inside transformers.

    linear_attention_test.py path/to/linear_attention_step [cpu|cuda]

Where torch, safetensors or a transformers with gated delta nets is missing it says so and exits with 77, which CTest
shows as skipped.
"""
import importlib
import inspect
import itertools
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77
MAX_ERROR = 5e-3  # relative L2, of outputs and states
MODULES = ("qwen3_next", "qwen3_5", "qwen3_5_moe")


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


try:
    import torch
    from safetensors.torch import load_file, save_file
    import transformers
except ImportError as e:
    skip(f"{e.name} is not installed")


def pure(module, *names):
    """The first of these functions that the module has, without the kernels that decorators put in its place."""
    for name in names:
        function = inspect.unwrap(getattr(module, name, None) or (lambda: None))
        if function.__module__ == module.__name__:
            return function
    return None


def reference():
    """Module name, convolution step and recurrence. Newer releases dropped the prefix of the convolution."""
    for name in MODULES:
        try:
            module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        except ImportError:
            continue
        functions = (pure(module, "torch_causal_conv1d_update", "causal_conv1d_update"),
                     pure(module, "torch_recurrent_gated_delta_rule"))
        if all(functions):
            return module.__name__, *functions
    return skip(f"transformers {transformers.__version__} has no such functions in {', '.join(MODULES)}")


REFERENCE, CONV_STEP, DELTA_RULE = reference()
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
if DEVICE == "cuda" and not torch.cuda.is_available():
    skip("no GPU")
BLOCK_TOKENS = 128


def paged(batch, tokens, generator):
    """Lengths, a block map of blocks in any order, and the blocks that a step reads and writes."""
    lengths = torch.randint(10, 1024, (batch,), generator=generator)
    slots = int((lengths.max() + BLOCK_TOKENS - 1) // BLOCK_TOKENS) + tokens - 1
    block_map = torch.full((batch, slots), 1 << 22)
    read, write, used = [], [], 1
    for b, length in enumerate(lengths.tolist()):
        first_read, first_write = (length - 2) // BLOCK_TOKENS, (length - 1) // BLOCK_TOKENS
        for slot in sorted({first_read, *range(first_write, first_write + tokens)}):
            block_map[b, slot] = used
            used += 1
        read.append(int(block_map[b, first_read]))
        write.append([int(block_map[b, first_write + i]) for i in range(tokens)])
    return {"lengths": lengths.int(), "block_map": block_map.int(),
            "settings": torch.tensor([BLOCK_TOKENS, 1], dtype=torch.int32)}, read, write, used


def run(tensors):
    with tempfile.TemporaryDirectory() as folder:
        source, result = f"{folder}/in.safetensors", f"{folder}/out.safetensors"
        save_file({name: t.contiguous() for name, t in tensors.items()}, source)
        subprocess.run([PROGRAM, source, result, DEVICE], check=True)
        return load_file(result)


def error(got, need):
    got, need = got.double(), need.double()
    return float((got - need).norm() / need.norm())


def compare(name, got, output, states, write, read_only):
    """`states`: [B][n] after each token; `read_only`: the pool as it was."""
    assert got["status"].count_nonzero() == 0, f"{name}: status {got['status']}"
    pool = got["state"]
    ours = torch.stack([torch.stack([pool[block] for block in blocks]) for blocks in write])
    errors = error(got["output"], output), error(ours, states)
    written = {block for blocks in write for block in blocks}
    untouched = [block for block in range(pool.shape[0]) if block not in written]
    assert torch.equal(pool[untouched], read_only[untouched]), f"{name}: wrote a block that is not its own"
    verdict = "good" if max(errors) < MAX_ERROR else "BAD"
    print(f"{name:44} output {errors[0]:.1e}  state {errors[1]:.1e}  {verdict}")
    return verdict == "good"


def convolution(batch, tokens, dtype, generator):
    dim, width = 4096, 4
    where, read, write, used = paged(batch, tokens, generator)
    x = torch.randn(batch, dim, tokens, generator=generator).to(dtype)
    pool = torch.randn(used, dim, width - 1, generator=generator).to(dtype)
    weight = torch.randn(dim, width, generator=generator)
    bias = torch.randn(dim, generator=generator)
    got = run({**where, "x": x, "state": pool, "weight": weight, "bias": bias})
    state = pool[read].clone()
    outputs, states = [], []
    for i in range(tokens):
        outputs.append(CONV_STEP(x[:, :, i:i + 1].float(), state, weight, bias, "silu"))
        states.append(state.clone())
    return compare(f"conv B {batch} n {tokens} {dtype}", got, torch.cat(outputs, -1), torch.stack(states, 1), write, pool)


def delta_rule(batch, tokens, dtype, generator):
    key_heads, value_heads, dim = 16, 32, 128
    where, read, write, used = paged(batch, tokens, generator)
    q, k = (torch.randn(batch, tokens, key_heads, dim, generator=generator).to(dtype) for _ in "qk")
    v = torch.randn(batch, tokens, value_heads, dim, generator=generator).to(dtype)
    g = -torch.rand(batch, tokens, value_heads, generator=generator)
    beta = torch.rand(batch, tokens, value_heads, generator=generator).to(dtype)
    pool = torch.randn(used, value_heads, dim, dim, generator=generator)
    got = run({**where, "q": q, "k": k, "v": v, "g": g, "beta": beta, "state": pool})
    state = pool[read].transpose(-1, -2).contiguous()  # the reference has key-first states
    outputs, states = [], []
    for i in range(tokens):
        at = slice(i, i + 1)
        wide = [t[:, at].float().repeat_interleave(value_heads // key_heads, dim=2) for t in (q, k)]
        output, state = DELTA_RULE(
            *wide, v[:, at].float(), g=g[:, at], beta=beta[:, at].float(), initial_state=state, output_final_state=True,
            use_qk_l2norm_in_kernel=True)
        outputs.append(output)
        states.append(state.transpose(-1, -2).contiguous())
    return compare(f"delta rule B {batch} n {tokens} {dtype}", got, torch.cat(outputs, 1), torch.stack(states, 1), write, pool)


def main():
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {REFERENCE}, on {DEVICE}")
    generator = torch.Generator().manual_seed(1)
    good = True
    for dtype, tokens in itertools.product((torch.bfloat16, torch.float32), (1, 2, 4)):
        good &= convolution(32, tokens, dtype, generator)
        good &= delta_rule(8, tokens, dtype, generator)
    return 0 if good else 1


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
