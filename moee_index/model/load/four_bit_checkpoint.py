"""Write and open 4-bit checkpoints: plain safetensors in bitsandbytes' standard layout.

A stack named `layers.0.mlp.experts.gate_up_proj` is on disk as `….packed`, `….absmax` and, with
double quantisation, `….absmax_scale` and `….absmax_offset`; everything else keeps its name in the
base model, in 16 bits. `moee_index.json` records how it was quantised and from what. Opening maps
the file: no weight is copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from moee_index.errors import ModelError
from moee_index.model.checkpoint.faults import reading_weights
from moee_index.model.checkpoint.find import DEFAULTS_FILE, FORMAT, Checkpoint
from moee_index.model.checkpoint.tensors import open_weights
from moee_index.model.load.weight_file import WEIGHTS_FILE, Draft, Specs, check_digest
from moee_index.model.nf4.parameters import assign, check_shape, dense_dtype, owner
from moee_index.model.nf4.stack import NF4Stack, stacks
from moee_index.model.precision import Storage
from moee_index.token_weights import FILE as TOKEN_WEIGHTS

_COPIED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    TOKEN_WEIGHTS,
)


def publish_four_bit(
    draft: Draft, checkpoint: Checkpoint, *, double_quant: bool, turned: bool
) -> None:
    """Turn a draft with all its weights into a checkpoint that `--model DIRECTORY` opens at once.

    turned: the answer of `four_bit.turns`. Raises StorageError if it cannot be written.
    """
    record: dict[str, Any] = dict(checkpoint.defaults)
    record["format"] = FORMAT
    record["quantization"] = {
        "type": "nf4",
        "block": 64,
        "double_quant": double_quant,
        "turned": turned,
        "source": checkpoint.name,
        "source_fingerprint": checkpoint.fingerprint,
        **draft.checksum(),
    }
    files = [checkpoint.path / name for name in _COPIED]
    draft.publish(DEFAULTS_FILE, record, [file for file in files if file.is_file()])


def tensor_specs(model: Any, kept: torch.dtype) -> Specs:
    """The tensors on disk of a 4-bit model, empty or loaded: stacks in their layout, the rest as
    `kept`."""
    specs: Specs = {
        f"{name}.{part}": spec
        for name, stack in stacks(model)
        for part, spec in stack.shapes().items()
    }
    for name, value in dense_tensors(model).items():
        specs[name] = (tuple(value.shape), dense_dtype(model, name, value, kept))
    return specs


def dense_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Everything in a 4-bit model's checkpoint that is not in 4 bits, by name."""
    return {**dict(model.named_parameters()), **dict(_dense_buffers(model))}


def fill_from_four_bit(
    model: Any,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: dict[str, tuple[int, ...]],
    *,
    checked: bool = False,
) -> None:
    """Fill a model from a 4-bit checkpoint: mapped as it is, or dequantised for 16 and 32 bits.

    checked: its checksum has been verified already.

    Raises ModelError naming what is missing, unexpected, misshapen or damaged.
    """
    record = checkpoint.quantization
    assert record is not None
    double_quant = bool(record.get("double_quant"))
    if storage.bits == 4 and storage.double_quant != double_quant:
        raise ModelError(
            f"{checkpoint.path} was quantised with{'' if double_quant else 'out'} double "
            "quantisation; the other form needs the 16-bit checkpoint"
        )
    file = checkpoint.path / WEIGHTS_FILE
    if not checked:
        with reading_weights([file]):
            check_digest(file, record.get("bytes"), record.get("digest"))
    if storage.bits == 4:
        fill_mapped(model, file, storage)
        return
    with _Tensors(file) as tensors:
        for name, shape in shapes.items():
            module, attribute = owner(model, name)
            if tensors.has(f"{name}.packed"):
                turned = bool(getattr(module, "is_transposed", False) and record.get("turned"))
                dense = _dequantized(name, shape, tensors, storage, double_quant, turned)
                assign(module, attribute, dense)
            else:
                dtype = dense_dtype(model, name, getattr(module, attribute), storage.kept)
                assign(module, attribute, tensors.take(name, shape, storage, dtype))


def fill_mapped(model: Any, file: Path, storage: Storage) -> None:
    """Fill a model whose modules have the layout of the file; 4-bit stacks are memory-mapped."""
    with _Tensors(file) as tensors:
        for name, module in model.named_modules():
            if isinstance(module, NF4Stack):
                for part, (shape, dtype) in module.shapes().items():
                    tensor = tensors.take(f"{name}.{part}", shape, storage, exactly=dtype)
                    setattr(module, part, tensor)
        for name, value in dense_tensors(model).items():
            dtype = dense_dtype(model, name, value, storage.kept)
            tensor = tensors.take(name, tuple(value.shape), storage, dtype)
            assign(*owner(model, name), tensor)


class _Tensors:
    """The tensors of one file, each to be taken once. Raises on exit if one was not taken."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reader: Any = open_weights(file)

    def __enter__(self) -> _Tensors:
        self._tensors = self._reader.__enter__()
        self._left = set(self._tensors.keys())
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        self._reader.__exit__(kind, *more)
        if kind is None and self._left:
            raise ModelError(f"{self._file}: unexpected tensor {sorted(self._left)[0]!r}")

    def has(self, name: str) -> bool:
        return name in self._left

    def take(
        self,
        name: str,
        shape: tuple[int, ...],
        storage: Storage,
        dtype: torch.dtype | None = None,
        exactly: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The tensor on the right device, cast to `dtype`; ModelError unless it is `exactly`."""
        if name not in self._left:
            raise ModelError(f"{self._file}: tensor {name!r} is missing; copy the file again")
        self._left.discard(name)
        tensor: torch.Tensor = self._tensors.get_tensor(name)
        check_shape(name, name, tuple(tensor.shape), shape)
        if exactly is not None and tensor.dtype != exactly:
            raise ModelError(f"{self._file}: {name} is {tensor.dtype}, not {exactly}")
        return tensor.to(storage.device, dtype if tensor.is_floating_point() else None)


def _dequantized(
    name: str,
    shape: tuple[int, ...],
    tensors: _Tensors,
    storage: Storage,
    double_quant: bool,
    turned: bool,
) -> torch.Tensor:
    count, rows, cols = shape if len(shape) == 3 else (1, *shape)
    if turned:
        rows, cols = cols, rows
    stack = NF4Stack(count, rows, cols, double_quant=double_quant)
    for part, (part_shape, dtype) in stack.shapes().items():
        setattr(stack, part, tensors.take(f"{name}.{part}", part_shape, storage, exactly=dtype))
    whole = torch.empty((count, rows, cols), dtype=storage.kept, device=storage.device)
    for index in range(count):
        stack.write(index, 0, whole[index].view(-1))
    if turned:
        whole = whole.transpose(1, 2).contiguous()
    return whole if len(shape) == 3 else whole[0]


def _dense_buffers(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Buffers that belong to the checkpoint, except those of 4-bit stacks."""
    persistent = set(model.state_dict())
    return [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if name in persistent
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), NF4Stack)
    ]
