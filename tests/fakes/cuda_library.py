"""bitsandbytes' own backend for cards over a library that stands in for its C one: every call is
recorded with its arguments, and computed in the processor's memory from what its pointers show.

`install` comes before bitsandbytes is imported, in a process of its own:

    python tests/fakes/cuda_library.py CAPABILITY CHECKPOINT...     (capability: as 9.0)

embeds texts on the road of such a card, in the dtype chosen for it and in float32, and prints a
line of each: the calls, and how far the vectors are from those of the processor's own road.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[2]
CARD = torch.device("cuda:0")
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# What a card is asked to do; quantizing is not among it.
_FROM_CARDS = ("dequantize_4bit", "dequantize_blockwise", "gemm_4bit", "gemv_4bit")


def at(pointer: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """The memory behind a pointer, as a tensor."""
    size = count * dtype.itemsize
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype=dtype)


class StandIn(ctypes.CDLL):
    """The library for cards. calls: (function, arguments, in Python's numbers or None)."""

    def __init__(self, processors: Path) -> None:
        super().__init__(str(processors))
        self.calls: list[tuple[str, list[int | None]]] = []
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if "_cpu" in name:  # which the library for cards has, too
            return super().__getattr__(name)
        if name.startswith("_") and name != "_made":
            raise AttributeError(name)
        if name not in self._made:
            self._made[name] = Function(name, self.calls)
        return self._made[name]


class Function:
    """A C function: takes what its argument types take, nothing else."""

    def __init__(self, name: str, calls: list[tuple[str, list[int | None]]]) -> None:
        self.name, self._calls = name, calls
        self.argtypes: list[Any] = []
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> None:
        assert len(arguments) == len(self.argtypes), (self.name, arguments)
        for kind, value in zip(self.argtypes, arguments, strict=True):
            kind.from_param(value)
            if kind is ctypes.c_int32:
                assert -(2**31) <= value < 2**31, (self.name, arguments)
        self._calls.append((self.name, list(arguments)))
        kernel = _kernel(self.name)
        assert kernel is not None, f"{self.name} is none of the functions known here"
        kernel(*arguments)


def _kernel(name: str) -> Callable[..., None] | None:
    parts = name.split("_")
    if name.startswith("cdequantize_blockwise_") and parts[-1] == "nf4":
        return lambda *values: dequantize_nf4(TYPES[parts[2]], *values)
    if name == "cdequantize_blockwise_fp32":
        return dequantize_codes
    if name.startswith("cgemm_4bit_") and parts[-1] in TYPES:
        return lambda *values: gemm(TYPES[parts[-1]], *values)
    return None


def nf4(pointer: int, absmax: torch.Tensor, count: int, block: int) -> torch.Tensor:
    """Weights in float32: the high half of a byte first."""
    import bitsandbytes

    table = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    packed = at(pointer, (count + 1) // 2, torch.uint8).int()
    codes = torch.stack((packed >> 4, packed & 15), dim=1).view(-1)[:count]
    return table[codes] * absmax.repeat_interleave(block)[:count]


def dequantize_nf4(
    dtype: torch.dtype, code: Any, a: int, absmax: int, out: int, block: int, n: int, stream: Any
) -> None:
    """dequantizeBlockwise<T, NF4>(code, A, absmax, out, blocksize, n, stream)"""
    assert code is None
    scales = at(absmax, -(-n // block), torch.float32)
    at(out, n, dtype).copy_(nf4(a, scales, n, block))


def dequantize_codes(
    code: int, a: int, absmax: int, out: int, block: int, n: int, stream: Any
) -> None:
    """dequantizeBlockwise<float, General8bit>(code, A, absmax, out, blocksize, n, stream)"""
    scales = at(absmax, -(-n // block), torch.float32).repeat_interleave(block)[:n]
    codes = at(a, n, torch.uint8).int()
    at(out, n, torch.float32).copy_(at(code, 256, torch.float32)[codes] * scales)


def gemm(
    dtype: torch.dtype,
    a: int,
    b: int,
    absmax: int,
    absmax_codes: int | None,
    code: int | None,
    offset: int | None,
    out: int,
    bias: int | None,
    m: int,
    n: int,
    k: int,
    block: int,
    kind: int,
    stream: Any,
) -> None:
    """gemm_4bit<T>(A, B, absmax, absmax_8bit, absmax_code, absmax_offset, out, bias, M, N, K,
    blocksize, quant_type, stream)"""
    assert kind == 2
    blocks = -(-n * k // block)
    if absmax_codes is None:
        scales = at(absmax, blocks, torch.float32)
    else:
        assert code is not None and offset is not None
        nested = at(absmax, -(-blocks // 256), torch.float32).repeat_interleave(256)[:blocks]
        values = at(code, 256, torch.float32)[at(absmax_codes, blocks, torch.uint8).int()]
        scales = values * nested + at(offset, 1, torch.float32)
    weights = nf4(b, scales, n * k, block).view(n, k).to(dtype).float()
    product = at(a, m * k, dtype).view(m, k).float() @ weights.T
    if bias is not None:
        product += at(bias, n, dtype).float()
    at(out, m * n, dtype).view(m, n).copy_(product)


def install(capability: tuple[int, int], patches: ExitStack) -> StandIn:
    """Make torch say that there is a card, and bitsandbytes, imported now, use its backend for it
    over the stand-in, with tensors of the processor."""
    assert "bitsandbytes" not in sys.modules
    from importlib.util import find_spec

    found = find_spec("bitsandbytes")
    assert found is not None and found.origin is not None
    library = StandIn(next(iter(Path(found.origin).parent.glob("libbitsandbytes_cpu.*"))))
    properties = SimpleNamespace(
        multi_processor_count=132, major=capability[0], minor=capability[1]
    )
    changes = [
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "get_device_capability", lambda _device=None: capability),
        (torch.cuda, "get_device_properties", lambda _device=None: properties),
        (torch.cuda, "device", lambda number: number),
        (torch.version, "cuda", "13.0"),
        (ctypes.cdll, "LoadLibrary", lambda _path: library),
    ]
    for module, name, value in changes:
        patches.enter_context(mock.patch.object(module, name, value))
    if not hasattr(torch._C, "_cuda_getCurrentRawStream"):
        torch._C._cuda_getCurrentRawStream = lambda _device: 0
    _register_later(patches)
    return library


def _register_later(patches: ExitStack) -> None:
    """Register kernels for cards as those of the processor, where a card is asked for them."""
    register = torch.library.register_kernel
    known: dict[tuple[str, str], Any] = {}

    def note(name: str, device: Any, function: Any = None) -> Any:
        def keep(function: Any) -> Any:
            known[name, str(device)] = function
            return function

        return keep if function is None else keep(function)

    with mock.patch.object(torch.library, "register_kernel", note):
        from moee_index.backends import import_bitsandbytes

        import_bitsandbytes()
    for (name, device), function in known.items():
        from_card = name.partition("::")[2].removesuffix(".out") in _FROM_CARDS
        if device == "cuda" and from_card:
            register(name, "cpu")(function)
        elif device != "cuda" and not (from_card and (name, "cuda") in known):
            register(name, device)(function)


def run(checkpoint: Path, chosen: Any, library: StandIn) -> dict[str, Any]:
    """The calls of loading and embedding, and how far the vectors are from the processor's."""
    from speed.card_road import as_on_a_card

    from moee_index.model import device as devices
    from moee_index.model.arch import grouped
    from moee_index.model.nf4 import dequantize, stack
    from moee_index.model.run import model as running

    one_kernel = devices.has_grouped_product(CARD, chosen.value)
    own = dequantize.dequantize
    with mock.patch.object(running, "choose_compute", lambda *_: chosen):
        wanted = embed(checkpoint)
        with as_on_a_card(), ExitStack() as patches:
            for module, name, value in (
                (dequantize, "on_card", lambda _device: True),
                (dequantize, "_c_kernel", lambda _dtype: None),
                (stack, "dequantize", own),
                (grouped, "has_grouped_product", lambda *_: one_kernel),
            ):
                patches.enter_context(mock.patch.object(module, name, value))
            library.calls.clear()
            found = embed(checkpoint)
    calls: dict[str, list[int | None]] = dict(reversed(library.calls))
    return {
        "compute": str(chosen.value).removeprefix("torch."),
        "one_kernel": one_kernel,
        "calls": calls,
        "counts": {name: sum(one == name for one, _ in library.calls) for name in calls},
        "apart": [
            float(abs(a - b).max() / abs(b).max()) for a, b in zip(found, wanted, strict=True)
        ],
    }


def embed(checkpoint: Path) -> tuple[Any, Any]:
    """HS and RW of a large batch of short texts and of one query."""
    import numpy as np

    from moee_index import Encoder

    encoder = Encoder.load(checkpoint, prompt="none", device="cpu")
    texts = [f"text {number} of some {'words ' * (number % 7)}" for number in range(60)]
    many, one = encoder.encode(texts), encoder.encode(["a query"], query=True)
    return np.concatenate([many.hs, one.hs]), np.concatenate([many.rw, one.rw])


def main(capability: str, checkpoints: list[str]) -> None:
    """Print a line of each checkpoint and dtype."""
    sys.path[:0] = [str(ROOT / "bench" / "scripts")]
    major, minor = (int(part) for part in capability.split("."))
    with ExitStack() as patches:
        library = install((major, minor), patches)
        from moee_index.model.precision import Choice
        from moee_index.model.run.hardware import choose_compute

        for name in checkpoints:
            for chosen in (choose_compute(4, CARD), Choice(torch.float32, "a test")):
                row = run(Path(name), chosen, library)
                print(json.dumps({"kind": Path(name).name, **row}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
