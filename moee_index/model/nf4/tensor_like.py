"""A stack of 4-bit matrices that stands in for the tensor it was made from.

A class that multiplies with its weights in its own forward (`F.linear(x, self.weight[expert])`,
`torch.bmm(x, self.weight)`) gets a stack instead, which dequantises what is used: one matrix for an
index, one after the other for a batched product, and all of it only for anything else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_BATCHED = (torch.bmm, torch.Tensor.bmm)


class TensorLike(nn.Module):
    """A module that holds `n` matrices [rows, cols] and can dequantise one.

    flat: it stands in for a tensor of two dimensions. dtype: what it dequantises to.
    """

    n: int
    rows: int
    cols: int
    flat: bool = False
    dtype: torch.dtype = torch.bfloat16

    def matrix(self, index: int, dtype: torch.dtype) -> torch.Tensor:
        """Matrix `index` [rows, cols] in memory of its own."""
        raise NotImplementedError

    def part(self, row: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """`count` rows of the only matrix from `row` on, [count, cols]."""
        return self.matrix(0, dtype)[row : row + count]

    def whole(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """All of it, dequantised: [n, rows, cols], or [rows, cols] if flat."""
        dtype = dtype or self.dtype
        if self.flat:
            return self.matrix(0, dtype)
        return torch.stack([self.matrix(index, dtype) for index in range(self.n)])

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.rows, self.cols) if self.flat else (self.n, self.rows, self.cols))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> torch.Tensor:
        number = _number(index)
        if number is None or self.flat:
            return self.whole()[index]
        return self.matrix(number, self.dtype)

    def view(self, *shape: Any) -> Any:
        """Another shape. Experts side by side in one matrix become a stack, not dequantised yet."""
        wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if (
            self.flat
            and len(wanted) == 3
            and wanted[1] > 0
            and wanted[2] == self.cols
            and self.rows % wanted[1] == 0
            and wanted[0] in (-1, self.rows // wanted[1])
        ):
            return _SideBySide(self, wanted[1])
        return self.whole().view(wanted)

    # Methods that a module has too, with another meaning.
    def to(self, *args: Any, **named: Any) -> torch.Tensor:  # type: ignore[override]
        return self.whole().to(*args, **named)

    def float(self) -> torch.Tensor:  # type: ignore[override]
        return self.whole(torch.float32)

    def bfloat16(self) -> torch.Tensor:  # type: ignore[override]
        return self.whole(torch.bfloat16)

    def type(self, *args: Any, **named: Any) -> Any:
        return self.whole().type(*args, **named)

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
        return self.whole(other.dtype) @ other

    def __rmatmul__(self, other: torch.Tensor) -> torch.Tensor:
        return other @ self.whole(other.dtype)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or not hasattr(torch.Tensor, name):
                raise
            return getattr(self.whole(), name)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        others = [one for one in (*args, *named.values()) if isinstance(one, torch.Tensor)]
        dtype = others[0].dtype if others and others[0].is_floating_point() else None
        if function in _BATCHED and len(args) == 2 and isinstance(args[1], TensorLike):
            return _batched(*args)
        dense = zip(named, _dense(named.values(), dtype), strict=True)
        return function(*_dense(args, dtype), **dict(dense))


class _SideBySide:
    """A flat stack's only matrix as several of `rows` rows each."""

    def __init__(self, held: TensorLike, rows: int) -> None:
        self._held, self._rows = held, rows

    def __getitem__(self, index: Any) -> torch.Tensor:
        number = _number(index)
        if number is None:
            return self._held.whole().view(-1, self._rows, self._held.cols)[index]
        return self._held.part(number * self._rows, self._rows, self._held.dtype)


def _batched(states: torch.Tensor, weights: TensorLike) -> torch.Tensor:
    """states [n, tokens, rows] times each matrix: [n, tokens, cols]. Rows of zeros, with which some
    classes mask tokens that are not routed to an expert, stay zeros and are not multiplied."""
    out = states.new_zeros((*states.shape[:2], weights.cols))
    routed = states.any(dim=-1)
    # A card is waited for twice, not once a matrix.
    counts, rows = routed.sum(dim=1).tolist(), routed.nonzero()[:, 1]
    for index, hit in enumerate(torch.split(rows, counts)):
        if len(hit):
            out[index, hit] = states[index, hit] @ weights.matrix(index, states.dtype)
    return out


def _dense(values: Any, dtype: torch.dtype | None) -> list[Any]:
    return [one.whole(dtype) if isinstance(one, TensorLike) else one for one in values]


def _number(index: Any) -> int | None:
    """An index as a number, or None if it is not a single one."""
    if isinstance(index, torch.Tensor):
        return int(index) if index.dim() == 0 and index.dtype != torch.bool else None
    return index if isinstance(index, int) and not isinstance(index, bool) else None
