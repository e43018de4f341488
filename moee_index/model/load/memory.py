"""Whether a model's weights fit the memory that this process may use, or a card's, known before
one is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from moee_index.errors import ModelError, lacks_memory
from moee_index.limits import Limit, memory_limit
from moee_index.model.arch.grouped import GROUPED_WEIGHTS
from moee_index.model.device import free_memory
from moee_index.model.load.four_bit_checkpoint import dense_tensors, tensor_specs
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.nf4.stack import stacks
from moee_index.model.precision import Storage
from moee_index.types import Notify, ignore

# Bytes of a 4-bit weight without double quantization: its code and its share of a float32.
_FOUR_BIT_BYTES = 0.5 + 4 / BLOCK

# What a card needs beside weights and workspaces: cuBLAS's own memory, and a few texts' states.
_LEAST_ROOM = 2**28


def check_memory(
    model: Any, name: str, storage: Storage, *, mapped: bool, tell: Notify = ignore
) -> None:
    """Raise ModelError where the weights of an empty model need more memory than there is. mapped:
    they stay in a file, which may be larger than the memory; that is only told. On a card nothing
    does, and DeviceMemoryError tells also of room to compute in."""
    if storage.device.type == "cuda":
        _check_card(model, name, storage)
        return
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


class DeviceMemoryError(ModelError):
    """A card lacks memory for a model. reason: the error without what to do next."""

    def __init__(self, reason: str, advice: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}; {advice}, or take --device cpu")


@contextmanager
def on_card(name: str, storage: Storage) -> Iterator[None]:
    """Turn a card's lack of memory while a model is loaded into DeviceMemoryError: others may take
    memory at any time."""
    try:
        yield
    except (RuntimeError, ModelError) as error:
        if storage.device.type != "cuda" or not any(map(_of_card, (error, error.__cause__))):
            raise
        raise DeviceMemoryError(
            f"{name} does not fit the memory of {storage.device}, of which "
            f"{_gigabytes(free_memory(storage.device))} are free",
            "free memory there",
        ) from error


def _of_card(error: BaseException | None) -> bool:
    """Whether an error says that a card's memory could not be had, not the processor's."""
    if not isinstance(error, RuntimeError) or "CPUAllocator" in str(error):
        return False
    return lacks_memory(error)


def _check_card(model: Any, name: str, storage: Storage) -> None:
    """Raise DeviceMemoryError where a card has no room for the weights of an empty model and for
    computing with them."""
    free = free_memory(storage.device)
    weights = _bytes(model, storage) + _widening(model, storage)
    needed = weights + workspace_bytes(model, storage.compute) + _LEAST_ROOM
    if needed <= free:
        return
    fewer = _fewer_bits(model, storage, free - _LEAST_ROOM)
    raise DeviceMemoryError(
        f"{name} needs {_gigabytes(needed)} on {storage.device} in {storage.bits} bits "
        f"({_gigabytes(weights)} of weights, and room to compute), but {_gigabytes(free)} are free "
        "there",
        fewer or "free memory there",
    )


def _widening(model: Any, storage: Storage) -> int:
    """Bytes by which what is not in 4 bits grows when it is cast to what it is computed in."""
    kept, compute = storage.kept.itemsize, storage.compute.itemsize
    return _cast_bytes(model, storage) * max(0, compute - kept) // compute


def workspace_bytes(model: Any, compute: torch.dtype) -> int:
    """Bytes of dequantized weights that a card computes with at once: of each projection of a
    layer's experts, and of the largest matrix alone."""
    experts = {name.rpartition(".")[2]: 0 for name, stack in stacks(model) if stack.n > 1}
    largest = 0
    for name, stack in stacks(model):
        largest = max(largest, stack.size)
        if stack.n > 1:
            kind = name.rpartition(".")[2]
            at_once = max(stack.size, min(stack.n * stack.size, GROUPED_WEIGHTS))
            experts[kind] = max(experts[kind], at_once)
    return (largest + sum(experts.values())) * compute.itemsize


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
    fewer = _fewer_bits(model, storage, limit.value)
    if fewer is not None:
        return fewer
    if storage.bits == 4:
        return (
            "without --no-cache, and with room on the disk, they stay in a file; or take a model "
            f"of at most {four_bits / 1e9:.1f} billion weights"
        )
    return f"take a model of at most {four_bits / 1e9:.1f} billion weights, with --bits 4"


def _fewer_bits(model: Any, storage: Storage, most: int) -> str | None:
    """With how many bits the weights fit, if with fewer."""
    if storage.bits == 4:
        return None
    count = sum(value.numel() for value in dense_tensors(model).values())
    embedding = model.get_input_embeddings().weight.numel()
    in_four = embedding * torch.bfloat16.itemsize + (count - embedding) * _FOUR_BIT_BYTES
    for bits, needed in ((16, count * torch.bfloat16.itemsize), (4, in_four)):
        if bits < storage.bits and needed <= most:
            return f"--bits {bits} needs about {_gigabytes(needed)}"
    return None


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
