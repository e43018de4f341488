"""The compiled kernels as Python functions, and which instruction set they use.

The library has no Python interface: it is loaded by its path and serves every Python. Where an
installation had no compiler there is none, and bitsandbytes' kernels are used instead.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from moee_index.backends import compiled
from moee_index.errors import ModelError
from moee_index.model.precision import Choice

VARIABLE = "MOEE_INDEX_ISA"
BITSANDBYTES = "bitsandbytes"

# As api.cpp numbers them, from the most general to the fastest on any one processor.
_INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512bf16", "neon")
_TYPES = {torch.float32: 0, torch.bfloat16: 1}

# Where dequantizing and torch's own product become faster (bench/scripts/speed/kernels.py). In
# float32 vector instructions make these kernels as fast as any.
_ALL = 2**31
_MOST_ROWS = {
    ("avx2", torch.float32): _ALL,
    ("avx512", torch.float32): _ALL,
    ("avx512bf16", torch.float32): _ALL,
    ("neon", torch.float32): _ALL,
    ("avx512bf16", torch.bfloat16): 64,
}
_MOST_ROWS_OTHERWISE = 2

_INT64_POINTER = ctypes.POINTER(ctypes.c_int64)


class Stack(ctypes.Structure):
    """`Nf4Stack` of kernels.h: n matrices in the standard layout and their statistics."""

    _fields_ = (
        ("packed", ctypes.c_void_p),
        ("absmax", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("map", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they were not built or do not load here."""
    loaded = compiled(Path(__file__).parent, "_kernels")
    if loaded is None:
        return None
    loaded.nf4_quantize.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    loaded.nf4_dequantize.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(Stack),
        _INT64_POINTER,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    loaded.nf4_multiply.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(Stack),
        _INT64_POINTER,
        _INT64_POINTER,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
    ]
    return loaded


@cache
def available() -> tuple[str, ...]:
    """Instruction sets of this library that the processor has, the fastest last."""
    loaded = library()
    bits = loaded.nf4_instruction_sets() if loaded else 0
    return tuple(name for number, name in enumerate(_INSTRUCTION_SETS) if bits >> number & 1)


@cache
def instruction_set() -> Choice:
    """The instruction set in use, with the reason; `bitsandbytes` where its kernels are.

    Raises ModelError where MOEE_INDEX_ISA names one that there is not here.
    """
    wanted = os.environ.get(VARIABLE, "")
    known = available()
    if not wanted:
        if not known:
            return Choice(BITSANDBYTES, "moee-index was installed without a C++ compiler")
        return Choice(known[-1], "the fastest of this processor")
    if wanted != BITSANDBYTES and wanted not in known:
        names = ", ".join((*known, BITSANDBYTES))
        state = "unknown" if wanted not in _INSTRUCTION_SETS else "not available here"
        raise ModelError(f"{VARIABLE}={wanted} is {state}; take one of {names}, or unset it")
    return Choice(wanted, f"{VARIABLE} says so")


@contextmanager
def forced(name: str) -> Iterator[None]:
    """As if the program had been started with MOEE_INDEX_ISA=name; for tests and measurements."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    instruction_set.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        instruction_set.cache_clear()


def in_use(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether these kernels are used for a dtype on a device."""
    return device.type == "cpu" and dtype in _TYPES and instruction_set().value != BITSANDBYTES


def most_rows(dtype: torch.dtype, device: torch.device) -> int:
    """Up to how many rows a matrix is multiplied sooner as it is than dequantized first; 0 where
    these kernels are not used."""
    if not in_use(dtype, device):
        return 0
    return _MOST_ROWS.get((instruction_set().value, dtype), _MOST_ROWS_OTHERWISE)


def quantize(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Contiguous float32 or bfloat16 weights, a multiple of 64, to packed uint8 [n / 2] and absmax
    float32 [n / 64]: code for code what bitsandbytes gives."""
    blocks = weights.numel() // 64
    packed = torch.empty(blocks * 32, dtype=torch.uint8)
    absmax = torch.empty(blocks, dtype=torch.float32)
    status = _loaded().nf4_quantize(
        _number(),
        weights.data_ptr(),
        blocks,
        _TYPES[weights.dtype],
        packed.data_ptr(),
        absmax.data_ptr(),
        torch.get_num_threads(),
    )
    _check(status)
    return packed, absmax


def dequantize(
    stack: Stack, index: Sequence[int], first: int, blocks: int, out: torch.Tensor
) -> None:
    """Blocks first… of each of the matrices `index`, into out [len(index) * blocks * 64]."""
    status = _loaded().nf4_dequantize(
        _number(),
        stack,
        _int64(index),
        len(index),
        first,
        blocks,
        _TYPES[out.dtype],
        out.data_ptr(),
        torch.get_num_threads(),
    )
    _check(status)


def multiply(
    stack: Stack,
    index: Sequence[int],
    starts: Sequence[int],
    x: torch.Tensor,
    source: torch.Tensor | None = None,
) -> torch.Tensor:
    """x [n, cols] times matrices of a stack, transposed: [products, rows] in x's dtype.

    Products starts[i]..starts[i + 1] are those of matrix index[i]. source: int64 [products], the
    row of x of each; None where they are in order. Sums are in float32; in bfloat16 the weights
    are rounded to it first. A product does not depend on the others of its call.
    """
    if x.stride(-1) != 1:
        x = x.contiguous()
    products = starts[-1]
    out = torch.empty((products, stack.rows), dtype=x.dtype)
    status = _loaded().nf4_multiply(
        _number(),
        stack,
        _int64(index),
        _int64(starts),
        len(index),
        x.data_ptr(),
        len(x),
        x.stride(0),
        None if source is None else source.data_ptr(),
        _TYPES[x.dtype],
        out.data_ptr(),
        torch.get_num_threads(),
    )
    _check(status)
    return out


def _loaded() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None
    return loaded


def _number() -> int:
    return _INSTRUCTION_SETS.index(instruction_set().value)


def _int64(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _check(status: int) -> None:
    if status == 2:
        raise MemoryError("no memory for a product of 4-bit weights")
    assert status == 0, status
