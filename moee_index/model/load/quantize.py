"""`quantize`: write a checkpoint as a 4-bit one."""

from __future__ import annotations

from pathlib import Path

import torch

from moee_index.errors import ModelError
from moee_index.model.arch.build import build_empty
from moee_index.model.arch.four_bit import turns
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.load.four_bit_checkpoint import publish_four_bit, tensor_specs
from moee_index.model.load.load import prepare
from moee_index.model.load.stream import fill_from_sources
from moee_index.model.load.weight_file import Draft
from moee_index.model.precision import Storage
from moee_index.types import Notify, Progress


def quantize_checkpoint(
    model: str | Path,
    directory: Path,
    *,
    revision: str | None = None,
    double_quant: bool = True,
    offline: bool = False,
    progress: Progress | None = None,
    tell: Notify | None = None,
) -> Path:
    """Stream a checkpoint, in 16 or 32 bits or quantised by others, in 4 bits into a new directory.

    Takes the memory of a few slices, however large the model. tell: gets a line on what becomes of
    weights that come quantised. Raises ModelError if there is no such model or it is in 4 bits
    already, StorageError if the directory exists or cannot be written.
    """
    checkpoint = find_checkpoint(model, revision=revision, offline=offline)
    if checkpoint.quantization is not None:
        raise ModelError(f"{checkpoint.path} is a 4-bit checkpoint already; use it as it is")
    if checkpoint.source is not None and tell is not None:
        tell(checkpoint.source.told(checkpoint.name, 4))
    # The checkpoint keeps the rest in bfloat16, so nothing is cast twice.
    storage = Storage(4, double_quant, torch.bfloat16, torch.device("cpu"))
    plan = build_empty(checkpoint)
    shapes = prepare(plan, checkpoint, storage)
    with Draft(directory, tensor_specs(plan.model, storage.kept)) as draft, torch.no_grad():
        fill_from_sources(plan, checkpoint, storage, shapes, home=draft.tensors, progress=progress)
        publish_four_bit(draft, checkpoint, double_quant=double_quant, turned=turns(checkpoint))
    return directory
