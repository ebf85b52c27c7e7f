# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""What functions take as an array."""
from typing import Any, Protocol


class Array(Protocol):
    """An array of numpy, torch, cupy, jax, or any other that speaks DLPack; its memory is taken without a copy.

    bf16 is ml_dtypes.bfloat16, torch.bfloat16, or the bits as uint16; f8_e4m3 is ml_dtypes.float8_e4m3fn,
    torch.float8_e4m3fn, or the bits as uint8.
    """

    def __dlpack__(self, *args: Any, **options: Any) -> Any: ...
