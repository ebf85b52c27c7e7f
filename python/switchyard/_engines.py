# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Entry points that engines call in each of their processes: `vllm.general_plugins` and `sglang.srt.plugins`.

With SWITCHYARD_ENGINES=1 the experts of an engine's unquantised bf16 layers run on Switchyard. Otherwise nothing of the
engine is touched, and neither torch nor the engine is imported.
"""
import functools
import importlib
import inspect
import logging
import os
from typing import Any, Callable, Optional

from . import _native
from ._errors import Error

VARIABLE = "SWITCHYARD_ENGINES"

_said: "set[str]" = set()


def say_once(logger: logging.Logger, text: str, level: int = logging.WARNING) -> None:
    """One line in the log for each text and process: layers are many."""
    if text not in _said:
        _said.add(text)
        logger.log(level, "%s", text)


def parameters_of(function: Callable[..., Any]) -> "list[str]":
    return list(inspect.signature(function).parameters)


@functools.lru_cache(maxsize=None)
def _device_fault(kind: str, index: int) -> Optional[str]:
    """Why this build cannot run on a device: a build for CPUs on a GPU, say."""
    try:
        if kind == "cuda":
            _native.make_cuda_backend(index)
    except Error as error:
        return str(error)
    return None


def weights_fault(**weights: Any) -> Optional[str]:
    """Why the kernels cannot read tensors [E, ...] as they are; None if they can."""
    for name, weight in weights.items():
        dtype = str(weight.dtype).removeprefix("torch.")
        if dtype != "bfloat16" or weight.shape[-1] % 8 or not weight.is_contiguous():
            return f"{name} is {dtype} {list(weight.shape)}, need bfloat16 in rows of a multiple of 8, without gaps."
    device = next(iter(weights.values())).device
    return _device_fault(device.type, device.index or 0)


def _register(engine: str, logger: logging.Logger) -> None:
    if os.environ.get(VARIABLE) != "1":
        return
    try:
        importlib.import_module(f".{engine}", __package__).register()
    except Exception as error:  # an engine that starts without Switchyard is better than none
        say_once(logger, f"Switchyard is not used by {engine}: {type(error).__name__}: {error}")


def register_vllm() -> None:
    """Entry point of the group `vllm.general_plugins`."""
    # vLLM gives its handlers to loggers below its own name.
    _register("vllm", logging.getLogger("vllm.switchyard"))


def register_sglang() -> None:
    """Entry point of the group `sglang.srt.plugins`."""
    _register("sglang", logging.getLogger("sglang.switchyard"))
