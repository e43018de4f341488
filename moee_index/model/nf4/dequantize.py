"""NF4 codes to weights in memory, or multiplied as they are, by bitsandbytes: its operations on a
card, its C functions on a processor."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import torch

from moee_index.backends import Kernel, cpu_kernel, import_bitsandbytes, without_compiler
from moee_index.model.nf4.quantize import BLOCK

# Rows into which weights are split for the threads of the CPU's dequantising kernel.
_SHARED_ROWS = 64

# Operations that have been called.
_CALLED: set[Any] = set()

_C_KERNELS = {
    torch.float32: "cdequantize_blockwise_cpu_nf4_fp32",
    torch.bfloat16: "cdequantize_blockwise_cpu_nf4_bf16",
    torch.float16: "cdequantize_blockwise_cpu_nf4_fp16",
}


def on_card(device: torch.device) -> bool:
    """Whether bitsandbytes' kernels for cards are used on a device."""
    return device.type == "cuda"


def dequantize(
    packed: torch.Tensor, absmax: torch.Tensor, count: int, out: torch.Tensor
) -> torch.Tensor:
    """Dequantise `count` consecutive weights into the flat tensor `out` [count].

    The weights are passed on as rows of whole blocks, whatever the matrix: if the number of columns
    is not a multiple of the block, bitsandbytes 0.50's CPU kernel is wrong (an error of 1.6 on unit
    Gaussian weights at 64 x 48). Its threads share rows, so there are several if possible.
    """
    if out.device.type == "cpu" and count % 2 == 0 and (kernel := _c_kernel(out.dtype)):
        _run_c_kernel(kernel, packed, absmax, count, out)
        return out
    import_bitsandbytes()
    if on_card(out.device):
        arguments = (packed, absmax, BLOCK, "nf4", (1, count), out.dtype)
        called(torch.ops.bitsandbytes.dequantize_4bit.out, *arguments, out=out.view(1, count))
        return out
    return out.copy_(_by_operation(packed, absmax, count, out.dtype))


def called(operation: Any, *arguments: Any, **named: Any) -> Any:
    """The result of an operation, the first time without torch's compiler, which it would import
    then (seconds)."""
    if operation in _CALLED:
        return operation(*arguments, **named)
    with without_compiler():
        result = operation(*arguments, **named)
    _CALLED.add(operation)
    return result


def _by_operation(
    packed: torch.Tensor, absmax: torch.Tensor, count: int, dtype: torch.dtype
) -> torch.Tensor:
    values: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        packed, absmax, BLOCK, "nf4", (1, count), dtype
    )
    return values.reshape(-1)


@cache
def _c_kernel(dtype: torch.dtype) -> Kernel | None:
    """bitsandbytes' C function for a dtype, or None if there is none or it gives other values than
    the public operation for all pairs of codes, in a few blocks."""
    name = _C_KERNELS.get(dtype)
    kernel = cpu_kernel(name) if name is not None else None
    if kernel is None:
        return None
    packed = torch.arange(256, dtype=torch.uint8, device="cpu")
    absmax = torch.arange(1, 2 * len(packed) // BLOCK + 1, dtype=torch.float32, device="cpu")
    count = 2 * len(packed)
    found = torch.full((count,), torch.nan, dtype=dtype, device="cpu")
    _run_c_kernel(kernel, packed, absmax, count, found)
    with without_compiler():
        wanted = _by_operation(packed, absmax, count, dtype)
    return kernel if torch.allclose(found.float(), wanted.float(), rtol=2**-7) else None


def _run_c_kernel(
    kernel: Kernel, packed: torch.Tensor, absmax: torch.Tensor, count: int, out: torch.Tensor
) -> None:
    rows = math.gcd(count // BLOCK, _SHARED_ROWS) if count % BLOCK == 0 else 1
    kernel(
        ctypes.c_void_p(packed.data_ptr()),
        ctypes.c_void_p(absmax.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_longlong(BLOCK),
        ctypes.c_longlong(rows),
        ctypes.c_longlong(count // rows),
    )


def dequantize_nested(
    codes: torch.Tensor, scale: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """absmax less its offset, float32 in the shape of its codes (bitsandbytes' nested
    statistics): values[codes], each run of 256 times its scale."""
    import_bitsandbytes()
    flat: torch.Tensor = called(
        torch.ops.bitsandbytes.dequantize_blockwise.default,
        *(codes.reshape(-1), scale.reshape(-1), values, 256, torch.float32),
    )
    return flat.view(codes.shape)


def has_gemm() -> bool:
    """Whether this bitsandbytes multiplies with NF4 codes of any number of rows."""
    import_bitsandbytes()
    return hasattr(torch.ops.bitsandbytes, "gemm_4bit")


def gemm(
    x: torch.Tensor,
    packed: torch.Tensor,
    shape: list[int],
    absmax: torch.Tensor,
    bias: torch.Tensor | None,
    *nested: torch.Tensor,
) -> torch.Tensor:
    """x [..., cols] times a matrix of a shape [rows, cols], transposed. nested: codes of absmax,
    their values and the offset, where `absmax` is only their scale."""
    product: torch.Tensor = called(
        torch.ops.bitsandbytes.gemm_4bit.default,
        *(x, packed, shape, absmax, BLOCK, "nf4", bias, *nested),
    )
    return product
