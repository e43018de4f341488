"""Tensors on disk as a model has them: plain ones, and codes joined with the statistics that
dequantise them.

A tensor is read whole, or one matrix of a stack at a time. Quantization formats are in the modules
beside this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import safe_open

from moee_index.errors import ModelError
from moee_index.model.checkpoint.faults import reading_weights
from moee_index.model.checkpoint.quant_config import ADVICE, SourceFormat

# File -> an open safetensors reader.
Readers = Mapping[Path, Any]

# safetensors' names of the types that are weights without more.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}


class Header(NamedTuple):
    """The header of one tensor in one file. dtype: safetensors' name for it."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _BITS[self.dtype] // 8


Headers = dict[str, Header]


class Coded(Protocol):
    """A matrix [rows, cols] as read, still quantised. nbytes: of what was read for it."""

    @property
    def nbytes(self) -> int: ...

    def dense(self) -> torch.Tensor:
        """The weights, in bfloat16 or float32, whichever holds them without rounding."""
        ...


Part = torch.Tensor | Coded


def dense(part: Part) -> torch.Tensor:
    """The weights of a part, dequantised if necessary."""
    return part if isinstance(part, torch.Tensor) else part.dense()


@dataclass(frozen=True)
class Stored:
    """A tensor under the name a model has for it, however many tensors on disk make it.

    members: all of them. read: gives matrix `index` of a stack or, for None, the whole of a tensor
    that is not a stack; nothing is dequantised yet.
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


def open_weights(file: Path) -> Any:
    """A reader of a safetensors file. Raises ModelError saying what is wrong with it."""
    with reading_weights([file]):
        return safe_open(file, framework="pt")


def read_headers(readers: Readers) -> Headers:
    """Every tensor of the files, by name. Raises ModelError if two have the same name or one has an
    unknown type."""
    headers: Headers = {}
    for file, reader in readers.items():
        for key in reader.keys():  # noqa: SIM118 - a safetensors reader is not a mapping
            part = reader.get_slice(key)
            header = Header(file, key, tuple(part.get_shape()), str(part.get_dtype()))
            if header.dtype not in _BITS:
                raise ModelError(
                    f"{file}: {key} is stored as {header.dtype}, which is not read; {ADVICE}"
                )
            if key in headers:
                raise ModelError(f"{key} is on disk twice: in {headers[key].file} and in {file}")
            headers[key] = header
    return headers


class Format(NamedTuple):
    """How a quantization keeps its tensors on disk.

    join: the tensor that a header's codes make with their companions (scales and other statistics);
    None if the header does not belong to codes. unused: endings of names that are not read.
    """

    join: Callable[[Header, Headers, Readers, SourceFormat], Stored | None]
    unused: tuple[str, ...] = ()


def fold(
    headers: Headers, readers: Readers, source: SourceFormat, form: Format
) -> dict[str, Stored]:
    """The tensors of a checkpoint under the names the model has for them, in the order of the
    files: codes joined with their companions, all others plain.

    Raises ModelError if a companion is missing or does not fit.
    """
    joined = {
        key: form.join(header, headers, readers, source)
        for key, header in headers.items()
        if not key.endswith(form.unused)
    }
    members = {member.key for stored in joined.values() if stored for member in stored.members}
    return {
        stored.key if stored else key: stored or plain(headers[key])
        for key, stored in joined.items()
        if stored or key not in members
    }


def companion(codes: Header, headers: Headers, *names: str) -> Header:
    """The first of some tensors that exists; ModelError naming the first if there is none."""
    for name in names:
        if name in headers:
            return headers[name]
    raise missing(codes, names[0])


def plain(header: Header) -> Stored:
    """An unquantised tensor."""
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
