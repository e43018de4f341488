"""What torch says of a device: whether it computes, what it can multiply, what is free on it.

Which device a model runs on is chosen in `run/hardware`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch

from moee_index.errors import first_line, lacks_memory

# How torch's allocator for cards is told what to do; the later names are the older ones.
_GROWING = "expandable_segments"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


# Under its earlier name until torch 2.9.
_change_allocator = getattr(torch._C, "_accelerator_setAllocatorSettings", None) or getattr(
    torch._C, "_cuda_cudaCachingAllocator_set_allocator_settings", None
)


def ready_allocator() -> None:
    """Let memory of a card grow in place, so that batches of other sizes leave no gaps that nothing
    fits. Effective before CUDA starts, where the system can, and unless the user has set it."""
    if sys.platform == "linux" and not any(name in os.environ for name in _ALLOCATOR):
        os.environ[_ALLOCATOR[0]] = f"{_GROWING}:True"


def _plain_allocator() -> bool:
    """Take back what `ready_allocator` asked for, which not every virtual card can do; whether it
    was asked for."""
    if os.environ.get(_ALLOCATOR[0]) != f"{_GROWING}:True" or _change_allocator is None:
        return False
    os.environ[_ALLOCATOR[0]] = f"{_GROWING}:False"
    try:
        _change_allocator(f"{_GROWING}:False")
    except RuntimeError:  # a torch that knows no such setting
        return False
    return True


def fault(device: torch.device) -> Exception | None:
    """Why a card computes nothing, or None: a trial addition tells what no version number does."""
    error = _trial(device)
    if error is None or lacks_memory(error) or not _plain_allocator():
        return error
    return _trial(device)


def _trial(device: torch.device) -> Exception | None:
    try:
        total = float((torch.ones(2, device=device) + 1).sum())
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return error  # torch asserts that it was built for cards
    return None if total == 4 else RuntimeError(f"1 + 1 comes out as {total / 2:g}")


def title(device: torch.device) -> str:
    """A card's name and compute capability; its number alone where it does not say."""
    try:
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return first_line(error)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated on a card: what is free there, and what torch holds of it
    without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + max(0, unused))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a card multiplies bfloat16 itself: from compute capability 8.0 on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def has_grouped_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies groups of rows in one kernel; elsewhere it waits for their bounds
    and multiplies one after the other. NVIDIA's 9.x and 10.x in bfloat16 (GroupedBlas.cpp)."""
    if device.type != "cuda" or dtype != torch.bfloat16 or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device)[0] in (9, 10)


def on_device(values: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor; a card is not waited for."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
