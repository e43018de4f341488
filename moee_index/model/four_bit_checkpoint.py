"""The 4-bit checkpoint: plain safetensors in bitsandbytes' standard layout, written and opened.

A stack named `layers.0.mlp.experts.gate_up_proj` is on disk as `….packed`, `….absmax` and, with
double quantisation, `….absmax_scale` and `….absmax_offset`; everything else keeps its name in the
base model, in 16 bits. `moee_index.json` says how it was quantised and from what. Opening maps
the file: no weight is copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from moee_index.errors import ModelError, StorageError
from moee_index.model.checkpoint import DEFAULTS_FILE, FORMAT, Checkpoint, find_checkpoint
from moee_index.model.loading import Progress, Storage, load_model
from moee_index.model.nf4 import NF4Stack, dequantize, stacks
from moee_index.model.placing import assign, check_shape, owner

WEIGHTS_FILE = "model.safetensors"
_EXISTS = "{} exists; quantize never overwrites, take another directory"
_COPIED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)


def write_four_bit(
    model: Any, checkpoint: Checkpoint, directory: Path, *, double_quant: bool
) -> Path:
    """Write a loaded 4-bit model as a checkpoint that `--model DIRECTORY` opens at once.

    Written beside and renamed: `directory` appears whole or not at all. Raises StorageError where
    it exists or cannot be written.
    """
    from safetensors.torch import save_file

    if directory.exists():
        raise StorageError(_EXISTS.format(directory))
    tensors: dict[str, torch.Tensor] = {}
    for name, stack in stacks(model):
        for part in NF4Stack.names(double_quant):
            tensors[f"{name}.{part}"] = getattr(stack, part).contiguous()
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.data.to(torch.bfloat16).contiguous()
    persistent = set(model.state_dict())
    for name, buffer in model.named_buffers():
        if name in persistent and name not in tensors and not _within_stack(model, name):
            tensors[name] = buffer.contiguous()

    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        for file in _COPIED:
            if (checkpoint.path / file).is_file():
                shutil.copyfile(checkpoint.path / file, partial / file)
        said: dict[str, Any] = dict(checkpoint.defaults)
        said["format"] = FORMAT
        said["quantization"] = {
            "type": "nf4",
            "block": 64,
            "double_quant": double_quant,
            "source": checkpoint.name,
            "source_fingerprint": checkpoint.fingerprint,
            "sha256": sha256_of(partial / WEIGHTS_FILE),
            "bytes": (partial / WEIGHTS_FILE).stat().st_size,
        }
        (partial / DEFAULTS_FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        for file_path in partial.iterdir():
            _fsync(file_path)
        partial.rename(directory)
        _fsync(directory.parent)
    except OSError as error:
        raise StorageError(
            f"{directory} cannot be written: {error.strerror or error}; free space or take another "
            "directory"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def quantize_checkpoint(
    model: str | Path,
    directory: Path,
    *,
    revision: str | None = None,
    double_quant: bool = True,
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Load a 16- or 32-bit checkpoint in 4 bits and write it to a new directory.

    Raises ModelError where there is no such model or it is in 4 bits already, StorageError where
    the directory exists or cannot be written.
    """
    checkpoint = find_checkpoint(model, revision=revision, offline=offline)
    if checkpoint.quantization is not None:
        raise ModelError(f"{checkpoint.path} is a 4-bit checkpoint already; use it as it is")
    if directory.exists():
        raise StorageError(_EXISTS.format(directory))
    # bfloat16 is what the checkpoint keeps beside its 4-bit matrices, so nothing is cast twice.
    storage = Storage(4, double_quant, torch.bfloat16, torch.device("cpu"))
    loaded, _ = load_model(checkpoint, storage, progress)
    return write_four_bit(loaded, checkpoint, directory, double_quant=double_quant)


def fill_from_four_bit(
    model: Any,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: dict[str, tuple[int, ...]],
    progress: Progress | None,
) -> None:
    """Fill a model from a 4-bit checkpoint: mapped as it is, or dequantised for 16 and 32 bits.

    Raises ModelError naming what is missing, unexpected, misshapen or truncated.
    """
    assert checkpoint.quantization is not None
    on_disk_double = bool(checkpoint.quantization.get("double_quant"))
    if storage.bits == 4 and storage.double_quant != on_disk_double:
        raise ModelError(
            f"{checkpoint.path} was quantised with{'' if on_disk_double else 'out'} double "
            "quantisation; the other form needs the 16-bit checkpoint"
        )
    file = checkpoint.path / WEIGHTS_FILE
    size = checkpoint.quantization.get("bytes")
    if size is not None and file.stat().st_size != size:
        raise ModelError(
            f"{file} has {file.stat().st_size} bytes, {size} were written; copy it again"
        )
    with safe_open(file, framework="pt") as reader:
        keys = set(reader.keys())
        wanted: set[str] = set()
        for done, (name, shape) in enumerate(shapes.items()):
            stack_parts = {f"{name}.{part}" for part in NF4Stack.names(on_disk_double)}
            if stack_parts <= keys:
                wanted |= stack_parts
                _fill_stack(model, name, shape, reader, storage, on_disk_double)
            elif name in keys:
                wanted.add(name)
                tensor = reader.get_tensor(name)
                check_shape(name, name, tuple(tensor.shape), shape)
                dtype = storage.kept if tensor.is_floating_point() else tensor.dtype
                module, attribute = owner(model, name)
                assign(module, attribute, tensor.to(storage.device, dtype))
            else:
                raise ModelError(f"{file}: tensor {name!r} is missing; copy the file again")
            if progress is not None:
                progress(done + 1, len(shapes))
        if keys - wanted:
            raise ModelError(f"{file}: unexpected tensor {sorted(keys - wanted)[0]!r}")


def _fill_stack(
    model: Any,
    name: str,
    shape: tuple[int, ...],
    reader: Any,
    storage: Storage,
    double_quant: bool,
) -> None:
    count, rows, cols = shape if len(shape) == 3 else (1, *shape)
    home = None
    if storage.bits == 4:
        home = model.get_submodule(name)
    stack = home if home is not None else NF4Stack(count, rows, cols, double_quant=double_quant)
    for part, (wanted, dtype) in stack.shapes().items():
        tensor = reader.get_tensor(f"{name}.{part}")
        if tensor.dtype != dtype:
            raise ModelError(f"{name}.{part} is {tensor.dtype} on disk, not {dtype}")
        check_shape(name, f"{name}.{part}", tuple(tensor.shape), wanted)
        setattr(stack, part, tensor.to(storage.device))
    if home is not None:
        return
    whole = torch.empty((count, rows, cols), dtype=storage.kept, device=storage.device)
    for index in range(count):
        absmax = stack.full_absmax(torch.tensor([index]))
        dequantize(stack.packed[index], absmax, stack.size, whole[index].view(-1))
    module, attribute = owner(model, name)
    assign(module, attribute, whole if len(shape) == 3 else whole[0])


def sha256_of(file: Path) -> str:
    """sha256 of a whole file, read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _within_stack(model: nn.Module, buffer_name: str) -> bool:
    owner, _, _ = buffer_name.rpartition(".")
    return isinstance(model.get_submodule(owner), NF4Stack)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
