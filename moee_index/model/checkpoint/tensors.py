"""Tensors on disk as a model knows them: a plain one, or codes with the statistics that undo them.

A tensor is read whole, or one matrix of a stack at a time. Formats of quantization are in the
modules beside this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from moee_index.errors import ModelError
from moee_index.model.checkpoint.quant_config import ADVICE

# File -> an open safetensors reader.
Readers = Mapping[Path, Any]

# safetensors' names of the types that are weights as they stand.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}


class Header(NamedTuple):
    """One tensor of one file, as its header has it. dtype: safetensors' name of it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _BITS[self.dtype] // 8


Headers = dict[str, Header]


class Coded(Protocol):
    """A matrix [rows, cols] as it was read, still quantised. nbytes: of what was read for it."""

    @property
    def nbytes(self) -> int: ...

    def dense(self) -> torch.Tensor:
        """Its weights, bfloat16 or float32, whichever holds them without rounding."""
        ...


Part = torch.Tensor | Coded


def dense(part: Part) -> torch.Tensor:
    """The weights of a part, dequantised where it is not plain."""
    return part if isinstance(part, torch.Tensor) else part.dense()


@dataclass(frozen=True)
class Stored:
    """A tensor under the name a model knows it by, however many tensors on disk make it.

    members: all of them. read: gives matrix `index` of a stack, or for None the whole of a tensor
    that is no stack; nothing is dequantised yet.
    """

    key: str
    shape: tuple[int, ...]
    members: tuple[Header, ...]
    read: Callable[[Readers, int | None], Part]

    @property
    def bytes(self) -> int:
        return sum(member.bytes for member in self.members)

    @property
    def plain(self) -> bool:
        return len(self.members) == 1

    def whole(self, readers: Readers) -> Part:
        """All of it; a quantised stack comes dequantised."""
        if self.plain or len(self.shape) < 3:
            return self.read(readers, None)
        return torch.stack([dense(self.read(readers, index)) for index in range(self.shape[0])])


def read_headers(readers: Readers) -> Headers:
    """Every tensor of the files, by name. Raises ModelError where two have the same name, or one
    has a type that is not known here."""
    found: Headers = {}
    for file, reader in readers.items():
        for key in reader.keys():  # noqa: SIM118 - a safetensors reader is no mapping
            part = reader.get_slice(key)
            header = Header(file, key, tuple(part.get_shape()), str(part.get_dtype()))
            if header.dtype not in _BITS:
                raise ModelError(
                    f"{file}: {key} is stored as {header.dtype}, which is not read; {ADVICE}"
                )
            if key in found:
                raise ModelError(f"{key} is on disk twice: in {found[key].file} and in {file}")
            found[key] = header
    return found


def plain(header: Header) -> Stored:
    """A tensor that is what it is."""
    return Stored(header.key, header.shape, (header,), partial(read_member, header))


def read_member(header: Header, readers: Readers, index: int | None) -> torch.Tensor:
    """One tensor on disk, or entry `index` of its first dimension."""
    if index is None:
        return readers[header.file].get_tensor(header.key)  # type: ignore[no-any-return]
    return readers[header.file].get_slice(header.key)[index : index + 1][0]  # type: ignore[no-any-return]


def missing(header: Header, name: str) -> ModelError:
    """The error for a quantised tensor without one of its statistics."""
    return ModelError(
        f"{header.file.parent}: {name} is missing, without which {header.key} cannot be read; the "
        "checkpoint is incomplete: copy it again"
    )


def misfit(header: Header, other: str, shape: tuple[int, ...], why: str) -> ModelError:
    """The error for statistics that do not fit their tensor."""
    return ModelError(
        f"{header.file.parent}: {other} has shape {list(shape)}, which does not fit {header.key} "
        f"{list(header.shape)}: {why}; the checkpoint is damaged: copy it again"
    )
