"""What a model runs with: device, compute dtype, kernels and threads, each with its reason."""

from __future__ import annotations

import os
import re

import torch

from moee_index.backends import has_avx512bf16, lacks_cuda_kernels, set_threads
from moee_index.errors import (
    LibraryError,
    MisuseError,
    ModelError,
    MoeeIndexError,
    counted,
    first_line,
    lacks_memory,
)
from moee_index.limits import bound_processors, processor_limit
from moee_index.model.device import fault, has_bfloat16, ready_allocator, title
from moee_index.model.nf4.native import library as native
from moee_index.model.precision import Choice
from moee_index.text import shown


def choose_device(requested: str, bits: int = 4) -> Choice:
    """`auto`: the first CUDA device that computes in so many bits, else the CPU.

    Raises MisuseError for anything but `auto`, `cpu` and `cuda[:N]`, for a number beyond the
    devices there are, and for a card that torch's kernels were not built for; ModelError where
    there is none or no memory is left on it, LibraryError where bitsandbytes cannot use it.
    """
    if requested == "auto":
        return _first_usable(bits)
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,4}))?", str(requested))
    if match is None:
        raise MisuseError(f"--device {shown(str(requested))!r} is none of auto, cpu and cuda[:N]")
    if match[0] != "cpu" and not torch.cuda.is_available():
        error = ModelError if match[1] is None else MisuseError
        raise error(
            f"--device {requested}: torch finds no CUDA device; take --device cpu (known are auto, "
            "cpu and cuda[:N])"
        )
    if match[1] is not None and int(match[1]) >= (count := torch.cuda.device_count()):
        raise MisuseError(
            f"--device {requested}: there {'is' if count == 1 else 'are'} "
            f"{counted(count, 'CUDA device')}, numbered from 0; take another, or auto"
        )
    if match[0] == "cpu":
        return Choice(torch.device("cpu"), "as requested")
    device = torch.device("cuda", int(match[1] or 0))
    if (unusable := _unusable(device, bits)) is not None:
        raise type(unusable)(f"--device {requested}: {unusable}; take --device cpu")
    return Choice(device, "as requested")


def _first_usable(bits: int) -> Choice:
    if not torch.cuda.is_available():
        return Choice(torch.device("cpu"), "no CUDA device")
    errors = []
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        error = _unusable(device, bits)
        if error is None:
            return Choice(device, "there is a CUDA device")
        errors.append(error)
    return Choice(torch.device("cpu"), f"{errors[0]}" if errors else "no CUDA device")


def _unusable(device: torch.device, bits: int) -> MoeeIndexError | None:
    """Why a card cannot be used for weights of so many bits; None if it can."""
    ready_allocator()
    error = fault(device)
    if error is not None and lacks_memory(error):
        return ModelError(f"no memory is free on {device}")
    if error is not None:
        why = shown(first_line(error), 200)
        return MisuseError(f"torch cannot compute on {device} ({title(device)}): {why}")
    if bits == 4 and (missing := lacks_cuda_kernels()) is not None:
        return LibraryError(f"{missing}, so nothing in 4 bits runs on {device}")
    return None


def choose_compute(bits: int, device: torch.device) -> Choice:
    """bfloat16 if the device multiplies it, else float16 on a card, where `RunningModel` watches
    for overflow, and float32 on a processor; float32 for 32 bits."""
    if bits == 32:
        return Choice(torch.float32, "32 bits were requested")
    if device.type == "cuda":
        if has_bfloat16(device):
            return Choice(torch.bfloat16, "CUDA device")
        major, minor = torch.cuda.get_device_capability(device)
        return Choice(torch.float16, f"no bfloat16 at compute capability {major}.{minor}")
    if bits == 16:
        return Choice(torch.bfloat16, "16 bits were requested")
    kernels = native.instruction_set()
    if kernels.value == "avx512bf16" or (kernels.value == native.BITSANDBYTES and has_avx512bf16()):
        return Choice(torch.bfloat16, "the processor has AVX512-BF16")
    if "avx512bf16" in native.available():
        return Choice(torch.float32, kernels.reason)
    return Choice(torch.float32, "the processor has no bfloat16 arithmetic")


def choose_kernels(bits: int, device: torch.device) -> Choice:
    """What multiplies 4-bit weights: an instruction set of our kernels, or a library."""
    if bits != 4:
        return Choice("torch", f"{bits} bits were requested")
    if device.type != "cpu":
        return Choice(native.BITSANDBYTES, f"device {device.type}")
    return native.instruction_set()


def choose_threads(requested: int | None) -> Choice:
    """As requested, but never more than there are processors to run on; else the libraries' own
    choice within what the process may use. The reason is empty where nothing is to be told."""
    bound, limit, machine = bound_processors(), processor_limit(), os.cpu_count() or 1
    if requested is not None and requested > bound.value:
        return Choice(
            bound.value,
            f"--threads {requested} is more than the {bound.value} processors there are "
            f"({bound.reason}): {bound.value} compute, for more would wait for one another",
        )
    if requested is not None:
        slower = (
            f"--threads {requested} is more than the {limit.value} processors that this process "
            f"may use ({limit.reason}): not faster than --threads {limit.value}, as a rule"
        )
        return Choice(requested, slower if requested > limit.value else "")
    threads = min(limit.value, set_threads(None))
    few = f"{threads} threads on {machine} processors: {limit.reason}"
    return Choice(threads, few if threads == limit.value < machine else "")
