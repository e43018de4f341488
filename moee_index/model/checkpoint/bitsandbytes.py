"""bitsandbytes' checkpoints: NF4 and FP4 with statistics beside them, and LLM.int8.

4 bits: `X` holds the codes, two a byte, flat over the row-major tensor. To dequantise them takes
`X.absmax`, `X.quant_map`, the JSON in `X.quant_state.bitsandbytes__nf4` (shape, block) and, under
double quantisation, `X.nested_absmax` and `X.nested_quant_map` (QLoRA, Dettmers et al. 2023, 3). X
is the weight of a linear layer or a fused stack of experts. 8 bits: `X.weight` int8 [rows, cols]
with `X.SCB` [rows], the rows' largest values (LLM.int8, Dettmers et al. 2022).

NF4 in blocks of 64 is our own format, so its codes are kept as they are. One matrix is in memory at
a time.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from moee_index.backends import import_bitsandbytes
from moee_index.errors import ModelError
from moee_index.model.checkpoint.quant_config import ADVICE, SourceFormat
from moee_index.model.checkpoint.tensors import (
    FLOATS,
    Format,
    Header,
    Headers,
    Readers,
    Stored,
    companion,
    misfit,
    missing,
    read_member,
)
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.nf4.stack import NESTED_BLOCK, Nested, Quantized, dynamic_map

_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")


@dataclass(frozen=True)
class FourBitMatrix:
    """packed: uint8 [ceil(rows * cols / 2)]. absmax: float32, one a block. table: float32 [16].
    nested: absmax as on disk, if it was quantised too and no other matrix shares its blocks."""

    shape: tuple[int, ...]
    packed: torch.Tensor
    absmax: torch.Tensor
    table: torch.Tensor
    block: int
    nested: Nested | None

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.absmax.nbytes

    def dense(self) -> torch.Tensor:
        """float32 [rows, cols]."""
        byte = torch.arange(256)
        pairs = torch.stack((self.table[byte >> 4], self.table[byte & 15]), dim=1).view(torch.int64)
        both = pairs.reshape(-1).index_select(0, self.packed.int())
        values = both.view(torch.float32)[: math.prod(self.shape)]
        even = len(values) // self.block * self.block
        blocks = values[:even].view(-1, self.block)
        blocks.mul_(self.absmax[: len(blocks), None])
        values[even:].mul_(self.absmax[-1])
        return values.view(self.shape)

    def as_ours(self) -> Quantized | None:
        """Codes and statistics as they are if they are in our own format, else None."""
        size = math.prod(self.shape)
        if self.block != BLOCK or size % BLOCK or not torch.equal(self.table, _table("nf4")):
            return None
        return Quantized(self.packed, self.absmax, self.nested)


@dataclass(frozen=True)
class EightBitMatrix:
    """codes: int8 [rows, cols]. largest: float32 [rows]."""

    codes: torch.Tensor
    largest: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.largest.nbytes

    def dense(self) -> torch.Tensor:
        """float32 [rows, cols]."""
        functional = import_bitsandbytes().functional
        return functional.int8_vectorwise_dequant(self.codes, self.largest)  # type: ignore[no-any-return]


def _join(
    header: Header, headers: Headers, readers: Readers, _source: SourceFormat
) -> Stored | None:
    """Reads the state of each tensor, some hundred bytes."""
    for suffix in _STATES:
        if header.key + suffix in headers:
            return _four_bit(header, headers, readers, headers[header.key + suffix])
    if header.dtype == "I8":
        return _eight_bit(header, headers, readers)
    if f"{header.key}.absmax" in headers:
        raise missing(header, header.key + _STATES[0])
    return None


FORMAT = Format(_join)


@dataclass(frozen=True)
class _State:
    """What dequantises one tensor's codes. nested: (block, offset) of double quantisation."""

    shape: tuple[int, ...]
    block: int
    nested: tuple[int, float] | None


def _four_bit(codes: Header, headers: Headers, readers: Readers, written: Header) -> Stored:
    """written: the header of the quantization state."""
    key = codes.key
    state = _state(written, readers)
    names = ["absmax", "quant_map"]
    if state.nested is not None:
        names += ["nested_absmax", "nested_quant_map"]
    members = {name: companion(codes, headers, f"{key}.{name}") for name in names}
    size = math.prod(state.shape)
    if codes.bytes != math.ceil(size / 2):
        raise misfit(written, key, codes.shape, f"{size} weights are {math.ceil(size / 2)} bytes")
    blocks = math.ceil(size / state.block)
    counts = {"absmax": blocks, "quant_map": 16, "nested_quant_map": 256}
    if state.nested is not None:
        counts["nested_absmax"] = math.ceil(blocks / state.nested[0])
    for name, member in members.items():
        if math.prod(member.shape) != counts[name]:
            raise misfit(codes, member.key, member.shape, f"{counts[name]} values are needed")
        dtype = "U8" if name == "absmax" and state.nested is not None else "F32"
        if member.dtype != dtype:
            raise ModelError(
                f"{member.file}: {member.key} is {member.dtype}, not {dtype}; {ADVICE}"
            )
    if len(state.shape) > 2 and math.prod(state.shape[1:]) % (2 * state.block):
        raise ModelError(
            f"{codes.file}: the matrices of {key} {list(state.shape)} share blocks of "
            f"{state.block} weights and cannot be read one by one; {ADVICE}"
        )
    read = partial(_read_four_bit, codes, members, state)
    return Stored(key, state.shape, (codes, *members.values(), written), read)


def _state(written: Header, readers: Readers) -> _State:
    text = bytes(read_member(written, readers, None).reshape(-1).view(torch.uint8).tolist())
    try:
        fields: dict[str, Any] = json.loads(text)
        shape = tuple(int(extent) for extent in fields["shape"])
        block = int(fields["blocksize"])
        nested = None
        if fields.get("nested_blocksize") is not None:
            nested = (int(fields["nested_blocksize"]), float(fields["nested_offset"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{written.file}: {written.key} cannot be read: {error!r}") from error
    if not 2 <= len(shape) <= 3 or min(shape) < 1 or block < 2 or (nested and nested[0] < 1):
        raise ModelError(f"{written.file}: {written.key} holds {fields}; {ADVICE}")
    return _State(shape, block, nested)


def _read_four_bit(
    codes: Header,
    members: dict[str, Header],
    state: _State,
    readers: Readers,
    index: int | None,
) -> FourBitMatrix:
    """A tensor's codes and statistics, or those of matrix `index` of a stack."""
    table = read_member(members["quant_map"], readers, None)
    shape = state.shape if index is None else state.shape[1:]
    size = math.prod(shape)
    blocks = math.ceil(size / state.block)
    first = (index or 0) * blocks
    if index is None:
        packed = read_member(codes, readers, None).view(torch.uint8).reshape(-1)
        absmax = read_member(members["absmax"], readers, None).reshape(-1)
    else:
        packed = _packed_slice(codes, size, index, readers)
        absmax = readers[members["absmax"].file].get_slice(members["absmax"].key)
        absmax = absmax[first : first + blocks]
    if state.nested is None:
        return FourBitMatrix(shape, packed, absmax, table, state.block, None)
    nested_block, offset = state.nested
    values = read_member(members["nested_quant_map"], readers, None)
    scale = read_member(members["nested_absmax"], readers, None)
    scale = scale[first // nested_block : math.ceil((first + blocks) / nested_block)]
    skipped = first % nested_block
    by_block = scale.repeat_interleave(nested_block)[skipped : skipped + blocks]
    full = values[absmax.int()].mul_(by_block).add_(offset)
    nested = None
    ours = nested_block == NESTED_BLOCK and torch.equal(values, dynamic_map(values.device))
    if ours and skipped == 0 and (index is None or blocks % NESTED_BLOCK == 0):
        nested = Nested(absmax, scale, offset)
    return FourBitMatrix(shape, packed, full, table, state.block, nested)


def _packed_slice(codes: Header, size: int, index: int, readers: Readers) -> torch.Tensor:
    """Bytes of one matrix of a fused stack; `bnb_4bit_quant_storage` may keep several as one
    number."""
    part = readers[codes.file].get_slice(codes.key)
    wide = codes.bytes // math.prod(codes.shape)
    count = size // 2 // wide
    if codes.shape[0] * wide != codes.bytes or size // 2 % wide:
        raise misfit(codes, codes.key, codes.shape, "the codes of a stack are one column")
    packed: torch.Tensor = part[index * count : (index + 1) * count]
    return packed.contiguous().view(torch.uint8).reshape(-1)


def _eight_bit(codes: Header, headers: Headers, readers: Readers) -> Stored:
    stem = codes.key.removesuffix("weight")
    largest = companion(codes, headers, f"{stem}SCB")
    if len(codes.shape) != 2 or math.prod(largest.shape) != codes.shape[0]:
        raise misfit(codes, largest.key, largest.shape, "each row has one")
    if largest.dtype not in FLOATS:
        raise ModelError(f"{largest.file}: {largest.key} is {largest.dtype}, not F32; {ADVICE}")
    members = [codes, largest]
    if (order := headers.get(f"{stem}weight_format")) is not None:
        if read_member(order, readers, None).reshape(-1)[:1].tolist() not in ([], [0]):
            raise ModelError(
                f"{codes.file}: the rows of {codes.key} are laid out for a GPU; {ADVICE}"
            )
        members.append(order)
    return Stored(codes.key, codes.shape, tuple(members), partial(_read_eight_bit, codes, largest))


def _read_eight_bit(
    codes: Header, largest: Header, readers: Readers, index: int | None
) -> EightBitMatrix:
    values = read_member(codes, readers, None)
    return EightBitMatrix(values, read_member(largest, readers, None).float().reshape(-1))


@cache
def _table(kind: str) -> torch.Tensor:
    values: torch.Tensor = import_bitsandbytes().functional.get_4bit_type(kind, device="cpu")
    return values
