"""Quantize weights to NF4 on the CPU, with exactly the codes of bitsandbytes' own operation.

bitsandbytes finds each code by binary search, whose branches are unpredictable; here a block of
weights is compared with all fifteen thresholds at once, which is 6 to 8 times as fast. numpy
releases the interpreter's lock in every step, so slices can be quantized in parallel.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from moee_index.backends import import_bitsandbytes

BLOCK = 64

# Large enough that two threads rarely wait for the lock, small enough to stay in the cache.
_CHUNK = 2**18

Floats = npt.NDArray[np.float32]


def quantize_on_cpu(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a tensor of a multiple of 64 weights to NF4 (QLoRA, Dettmers et al. 2023, 3).

    Returns (packed uint8 [numel / 2], absmax float32 [numel / 64]) over the row-major weights. The
    absmax of a block is not finite if one of its weights is not.
    """
    flat = matrix.detach().reshape(-1)
    count = flat.numel()
    packed = np.empty(count // 2, dtype=np.uint8)
    absmax = np.empty(count // BLOCK, dtype=np.float32)
    # Every step writes into one of these: new memory for each would cost as much as the step.
    room = min(count, _CHUNK)
    values, scaled = np.empty(room, dtype=np.float32), np.empty(room, dtype=np.float32)
    codes, above = np.empty(room, dtype=np.uint8), np.empty(room, dtype=np.bool_)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        part = flat[start : start + size]
        own = absmax[start // BLOCK : (start + size) // BLOCK]
        if part.dtype == torch.bfloat16:
            _read_bfloat16(part.view(torch.uint16).numpy(), values[:size], own)
        else:
            _read(part.float().numpy(), values[:size], own)
        inverse = np.float32(1) / np.maximum(own, np.float32(1e-38))
        with np.errstate(invalid="ignore"):  # infinite weights; their absmax tells of them
            np.multiply(
                values[:size].reshape(-1, BLOCK),
                inverse[:, None],
                out=scaled[:size].reshape(-1, BLOCK),
            )
        codes[:size] = 0
        for threshold in _thresholds():
            np.greater(scaled[:size], threshold, out=above[:size])
            np.add(codes[:size], above[:size].view(np.uint8), out=codes[:size])
        _pack(codes[:size], packed[start // 2 : (start + size) // 2])
    return torch.from_numpy(packed), torch.from_numpy(absmax)


def _read(source: Floats, values: Floats, absmax: Floats) -> None:
    np.abs(source, out=values)
    values.reshape(-1, BLOCK).max(axis=1, out=absmax)
    np.copyto(values, source)


def _read_bfloat16(source: npt.NDArray[np.uint16], values: Floats, absmax: Floats) -> None:
    """bfloat16, for which numpy has no type, is the upper half of float32. Without the sign, its
    bits sort like its magnitudes, so half the bytes are compared."""
    wide = values.view(np.uint32)
    magnitudes = wide.view(np.uint16)[: len(source)]
    np.bitwise_and(source, 0x7FFF, out=magnitudes)
    np.copyto(absmax.view(np.uint32), magnitudes.reshape(-1, BLOCK).max(axis=1))
    np.left_shift(absmax.view(np.uint32), 16, out=absmax.view(np.uint32))
    np.copyto(wide, source)
    np.left_shift(wide, 16, out=wide)


def _pack(codes: npt.NDArray[np.uint8], packed: npt.NDArray[np.uint8]) -> None:
    """Two codes in a byte, the first one high."""
    both = codes.view("<u2")
    np.copyto(packed, both << 4 | both >> 8, casting="unsafe")


@cache
def _thresholds() -> Floats:
    """The fifteen midpoints between the sixteen values of NF4."""
    values = import_bitsandbytes().functional.get_4bit_type("nf4", device="cpu").numpy()
    return ((values[:-1] + values[1:]) / 2).astype(np.float32)  # type: ignore[no-any-return]
