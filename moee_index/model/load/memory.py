"""Whether a model's weights fit the memory that this process may use, known before one is read."""

from __future__ import annotations

import math
from typing import Any

import torch

from moee_index.errors import ModelError
from moee_index.limits import Limit, memory_limit
from moee_index.model.load.four_bit_checkpoint import dense_tensors, tensor_specs
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.precision import Storage
from moee_index.types import Notify, ignore

# Bytes of a 4-bit weight without double quantization: its code and its share of a float32.
_FOUR_BIT_BYTES = 0.5 + 4 / BLOCK


def check_memory(
    model: Any, name: str, storage: Storage, *, mapped: bool, tell: Notify = ignore
) -> None:
    """Raise ModelError where the weights of an empty model need more memory than there is. mapped:
    they stay in a file, which may be larger than the memory; that is only told."""
    limit = memory_limit() if storage.device.type == "cpu" else None
    if limit is None:
        return
    weights = _bytes(model, storage)
    own = _cast_bytes(model, storage) if mapped else weights
    if own > limit.value:
        raise ModelError(
            f"{name} needs {_gigabytes(own)} of memory for its weights in {storage.bits} bits, but "
            f"this process may use {_gigabytes(limit.value)} ({limit.reason}); "
            f"{_what_fits(model, storage, limit)}"
        )
    if mapped and weights > limit.value - own:
        tell(
            f"{name}: its weights are {_gigabytes(weights)} in a file, of which "
            f"{_gigabytes(limit.value - own)} fit the memory that this process may use "
            f"({limit.reason}); it will run, but slowly, reading them again and again"
        )


def _bytes(model: Any, storage: Storage) -> int:
    specs = tensor_specs(model, storage.kept).values()
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in specs)


def _cast_bytes(model: Any, storage: Storage) -> int:
    """Bytes of what is copied for being computed in another type than it is kept in."""
    if storage.compute == storage.kept:
        return 0
    embedding = model.get_input_embeddings().weight  # looked up as it is
    dense = [value for value in dense_tensors(model).values() if value is not embedding]
    return sum(value.numel() for value in dense) * storage.compute.itemsize


def _what_fits(model: Any, storage: Storage, limit: Limit) -> str:
    """What to do instead."""
    four_bits = limit.value / _FOUR_BIT_BYTES
    if storage.bits == 4:
        return (
            "without --no-cache, and with room on the disk, they stay in a file; or take a model "
            f"of at most {four_bits / 1e9:.1f} billion weights"
        )
    count = sum(value.numel() for value in dense_tensors(model).values())
    embedding = model.get_input_embeddings().weight.numel()
    in_four = embedding * torch.bfloat16.itemsize + (count - embedding) * _FOUR_BIT_BYTES
    for bits, needed in ((16, count * torch.bfloat16.itemsize), (4, in_four)):
        if bits < storage.bits and needed <= limit.value:
            return f"--bits {bits} needs about {_gigabytes(needed)}"
    return f"take a model of at most {four_bits / 1e9:.1f} billion weights, with --bits 4"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
