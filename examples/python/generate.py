# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/generate.py -- a trained model writes Python, its experts by transformers, then by Switchyard.

    python examples/python/generate.py [TOKENS]     # 200
"""
import pathlib
import sys
import time

import torch
import transformers

import switchyard.transformers

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "data" / "tiny-code-moe"
PROMPT = b"class Stack:\n    def __init__(self):\n        self.items = []\n"  # a token is a byte
device = "cuda" if torch.cuda.is_available() else "cpu"
count = int(sys.argv[1]) if len(sys.argv) > 1 else 200

model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16, experts_implementation="eager").to(device)
head = model.lm_head.weight.float()
model.lm_head.forward = lambda hidden: hidden.float() @ head.T  # logits in bf16 tie


def write():
    """Tokens, the least margin of a token over the next best, and tokens per second."""
    prompt = torch.tensor([list(PROMPT)], device=device)
    options = dict(do_sample=False, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_logits=True)
    model.generate(prompt, max_new_tokens=2, **options)  # what is made at a first call
    start = time.perf_counter()
    made = model.generate(prompt, max_new_tokens=count, **options)
    seconds = time.perf_counter() - start
    best = torch.cat(made.logits).topk(2).values
    return made.sequences[0, len(PROMPT):].tolist(), float((best[:, 0] - best[:, 1]).min()), count / seconds


theirs, margin, rate_before = write()
switchyard.transformers.use(model)
ours, _, rate = write()
print((PROMPT + bytes(ours)).decode(errors="replace"))
assert ours == theirs and len(ours) == count
print(f"{count} tokens as eager writes them, the least margin {margin:.3f}; {rate_before:.0f} tokens/s before, {rate:.0f} after, on {device}")
