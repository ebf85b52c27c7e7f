# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Every error that Switchyard raises; the texts are C++'s."""


class Error(Exception):
    """`<operation>: <name>=<value>, <the rule>. <What to do instead.>`, on one line."""


class ShapeMismatch(Error, ValueError):
    """A size, a dtype or a dimension breaks a rule."""


class Misaligned(Error, ValueError):
    """An address or a width is not a multiple of what the kernels copy."""


class Unsupported(Error, ValueError):
    """Recognised, but this build, device or release cannot do it."""


class BadFile(Error, OSError):
    """A file is missing, damaged or not what its header says."""


class Cuda(Error, RuntimeError):
    """The CUDA runtime or a kernel reported a fault."""


class Transport(Error, RuntimeError):
    """A peer is lost, late, or called something else; the communicator is over."""


class BadRouting(Error, RuntimeError):
    """Expert ids or per-expert counts that no layer can serve."""


class BadState(Error, RuntimeError):
    """A sequence whose state is outside its block map or outside the pool."""


BY_CODE = dict(enumerate((ShapeMismatch, Misaligned, Unsupported, BadFile, Cuda, Transport, BadRouting, BadState), 1))
