"""`quantize`: a 16-bit checkpoint in, a 4-bit one out. Joins loading and writing, nothing else."""

from __future__ import annotations

from pathlib import Path

import torch

from moee_index.errors import ModelError, StorageError
from moee_index.model.checkpoint import find_checkpoint
from moee_index.model.four_bit_checkpoint import EXISTS, write_four_bit
from moee_index.model.loading import load_model
from moee_index.model.storage import Progress, Storage


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
        raise StorageError(EXISTS.format(directory))
    # bfloat16 is what the checkpoint keeps beside its 4-bit matrices, so nothing is cast twice.
    storage = Storage(4, double_quant, torch.bfloat16, torch.device("cpu"))
    loaded = load_model(checkpoint, storage, progress=progress).model
    return write_four_bit(loaded, checkpoint, directory, double_quant=double_quant)
