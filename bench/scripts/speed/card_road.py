"""The road that a batch takes on a card, taken on a processor, and what it moves there.

Counts for `traffic.py`, and for tests of what only a card would do.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

# Make no tensor of their own, or move nothing.
_FREE = frozenset(
    (
        *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "unsqueeze"),
        *("squeeze", "slice", "select", "split", "split_with_sizes", "unbind", "alias", "detach"),
        *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "as_strided"),
        *("_reshape_alias", "diagonal", "narrow", "lift_fresh", "chunk", "view_as"),
        *("is_same_size", "sym_size", "prim_layout", "resolve_neg"),
    )
)
# Take rows out of their first argument; a bag of many takes a row for each of its members.
_BAG = "embedding_bag"
_GATHERS = frozenset(("index_select", "embedding", "index", "gather", _BAG))
# Give their argument back where there is nothing to do.
_PERHAPS_FREE = frozenset(("to", "flatten", "contiguous", "float", "type_as", "reshape"))
# resolve_conj: how `tolist` shows.
_WAITS = frozenset(
    (
        "resolve_conj",
        "_local_scalar_dense",
        "nonzero",
        "bincount",
        "masked_select",
        "_unique2",
        "equal",
        "item",
    )
)
_PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "linear", "gemm_4bit"))


def moved(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's memory: what is expanded counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    count = 1
    for size in sizes:
        count *= size
    return count * tensor.element_size() if tensor.numel() else 0


def memory_of(tensor: torch.Tensor) -> int:
    """What tells a tensor's memory from other memory; views have that of what they show."""
    return int(tensor.untyped_storage()._cdata)


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """All tensors among arguments or results."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


class Traffic(TorchDispatchMode):
    """Watches operations: `bytes`, `launches` and `waits` by name, `products` bytes of products,
    `peak` bytes alive beyond the start."""

    running: ClassVar[Traffic | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.products = self.alive = self.peak = 0
        self._held: set[int] = set()

    def __enter__(self) -> Traffic:
        Traffic.running = self
        return cast("Traffic", super().__enter__())

    def __exit__(self, *error: Any) -> Any:
        Traffic.running = None
        return super().__exit__(*error)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        before = {memory_of(one) for one in tensors([args, named])}
        result = function(*args, **named)
        name = function.overloadpacket.__name__
        self._see(name, args, named, result, before)
        return result

    def _see(self, name: str, args: Any, named: Any, result: Any, before: set[int]) -> None:
        for one in tensors(result):
            if memory_of(one) not in before:
                self._keep(one)
        if name in _FREE or (name in _PERHAPS_FREE and memory_of(result) in before):
            return
        mask = name == "index" and any(one.dtype == torch.bool for one in tensors(args[1]))
        inputs = list(tensors([args, named]))
        asks = name == "repeat_interleave" and len(inputs) > 1 and "output_size" not in named
        if name in _WAITS or mask or asks:
            self.waits[name] += 1
        written = sum(moved(one) for one in tensors(result))
        if name in _GATHERS:
            rows = inputs[1].numel() if name == _BAG else None
            taken = written if rows is None else rows * inputs[0].shape[-1] * inputs[0].itemsize
            read = taken + sum(moved(one) for one in inputs[1:])
        elif name in ("copy_", "fill_", "zero_"):
            read = sum(moved(one) for one in inputs[1:])
        elif "out" in named:
            read = sum(moved(one) for one in inputs if one is not named["out"])
        else:
            read = sum(moved(one) for one in inputs)
        self.count(name, read + written)

    def count(self, name: str, size: int) -> None:
        """Count an operation."""
        self.launches[name] += 1
        self.bytes[name] += size
        if name in _PRODUCTS:
            self.products += size

    def _keep(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = memory_of(tensor), storage.nbytes()
        if key in self._held or not size:
            return
        self._held.add(key)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def gone() -> None:
            self._held.discard(key)
            self.alive -= size

        weakref.finalize(storage, gone)


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Models loaded and run inside take the road of a CUDA device of compute capability 9.0, on the
    processor: bitsandbytes' operations, grouped products, fused norms, whole batches."""
    from moee_index.model.arch import experts, grouped
    from moee_index.model.nf4 import stack
    from moee_index.model.nf4.native import library
    from moee_index.model.run import model

    changes = [
        (experts, "grouped", lambda _device: True),
        (grouped, "has_grouped_product", lambda *_: True),
        (stack, "on_card", lambda _device: True),
        (stack, "dequantize", _dequantize),
        (model, "run_in_blocks", model.ready_for_card),
        (model, "_pieces", lambda texts: [texts]),
    ]
    with ExitStack() as patches:
        patches.enter_context(library.forced(library.BITSANDBYTES))
        for module, name, value in changes:
            patches.enter_context(mock.patch.object(module, name, value))
        yield


def _dequantize(
    packed: torch.Tensor, absmax: torch.Tensor, count: int, out: torch.Tensor
) -> torch.Tensor:
    """As on a card, where it is one operation that writes into memory of ours."""
    from moee_index.model.nf4.dequantize import dequantize

    if Traffic.running is None:
        return dequantize(packed, absmax, count, out)
    with _disable_current_modes():
        dequantize(packed, absmax, count, out)
    Traffic.running.count("dequantize_4bit.out", sum(map(moved, (packed, absmax, out))))
    return out


@dataclass(frozen=True)
class Layer:
    """What a layer of a batch moved: bytes, those of products alone, launches, waits."""

    bytes: int
    products: int
    launches: int
    waits: int


def watch(running: Any, texts: Any, layer: int = 0) -> tuple[Layer, Traffic]:
    """Run a batch and count: one layer, and of the whole batch everything."""
    traffic = Traffic()
    marks: list[Layer] = []

    def mark(*_: Any) -> None:
        marks.append(
            Layer(
                sum(traffic.bytes.values()),
                traffic.products,
                sum(traffic.launches.values()),
                sum(traffic.waits.values()),
            )
        )

    module = running.model.layers[layer]
    hooks = [module.register_forward_pre_hook(mark), module.register_forward_hook(mark)]
    try:
        with traffic:
            running.embed(texts)
    finally:
        for hook in hooks:
            hook.remove()
    before, after = marks[-2:]
    fields = {
        name: getattr(after, name) - getattr(before, name) for name in Layer.__dataclass_fields__
    }
    return Layer(**fields), traffic
