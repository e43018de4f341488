"""What of a model is in 4 bits: put there before loading, proven after it, counted.

Reads no file.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from moee_index.errors import ModelError
from moee_index.model.arch.routing import find_routers
from moee_index.model.arch.select import (
    Matrix,
    expert_stacks,
    left_in_16_bits,
    own_matrices,
    quantisable_linears,
    uses_interface,
)
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.quant_config import BITSANDBYTES
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.nf4.stack import NF4Linear, NF4Stack, Workspace, stacks


def install_four_bits(model: Any, checkpoint: Checkpoint, double_quant: bool) -> None:
    """Replace what is for 4 bits by empty modules; all projections share a workspace.

    Raises ModelError naming a matrix that cannot be had in 4 bits.
    """
    workspace = Workspace()
    own = own_matrices(model)
    linears = quantisable_linears(model, find_routers(model))
    for name, module, attribute in expert_stacks(model):
        turned = bool(getattr(module, "is_transposed", False)) and turns(checkpoint)
        _install_stack(Matrix(name, module, attribute), checkpoint, double_quant, turned)
    for matrix in own:
        _install_stack(matrix, checkpoint, double_quant)
    for name, linear in linears:
        rows, cols = linear.weight.shape
        _check_blocks(f"{name}.weight", rows, cols, checkpoint)
        model.set_submodule(
            name,
            NF4Linear(
                rows,
                cols,
                bias=linear.bias is not None,
                double_quant=double_quant,
                workspace=workspace,
            ),
        )


def turns(checkpoint: Checkpoint) -> bool:
    """Whether matrices that a class keeps as [in, out] are quantised as [out, in].

    Not where they come in NF4 already, to be taken as they are; a 4-bit checkpoint says it.
    """
    if checkpoint.quantization is not None:
        return bool(checkpoint.quantization.get("turned"))
    return checkpoint.source is None or checkpoint.source.kind != BITSANDBYTES


def _install_stack(
    matrix: Matrix, checkpoint: Checkpoint, double_quant: bool, turned: bool = False
) -> NF4Stack:
    """An empty stack in the place of a parameter of two or three dimensions."""
    shape = getattr(matrix.module, matrix.attribute).shape
    rows, cols = reversed(shape[-2:]) if turned else shape[-2:]
    _check_blocks(matrix.name, rows, cols, checkpoint)
    count = shape[0] if len(shape) == 3 else 1
    stack = NF4Stack(count, rows, cols, double_quant=double_quant, turned=turned)
    stack.flat = len(shape) == 2
    del matrix.module._parameters[matrix.attribute]
    matrix.module.add_module(matrix.attribute, stack)
    return stack


def _check_blocks(name: str, rows: int, cols: int, checkpoint: Checkpoint) -> None:
    if rows * cols % BLOCK:
        raise ModelError(
            f"{checkpoint.name}: {name} is {rows} x {cols}, no multiple of {BLOCK} weights, and "
            "cannot be had in 4 bits; take --bits 16"
        )


def assert_four_bits(model: Any) -> None:
    """Raise ModelError if any expert, dense MLP or attention matrix is left in 16 or 32 bits,
    in whatever form it is kept (parameter, buffer, fused or not)."""
    for name, module, attribute in left_in_16_bits(model):
        value = getattr(module, attribute)
        expert = uses_interface(module) or "Expert" in type(module).__name__
        if expert or isinstance(module, nn.Linear) or value.dim() > 2:
            raise ModelError(
                f"{name} {list(value.shape)} was left in {value.dtype}: "
                "not a 4-bit model; this is a bug, please report it, or take --bits 16"
            )


def told_in_16_bits(model: Any) -> str | None:
    """What of a 4-bit model is kept in 16 bits beside embeddings, norms, routers, biases and
    convolutions, in one line by name; None where nothing is."""
    sizes: dict[str, int] = {}
    for name, module, attribute in left_in_16_bits(model):
        kind = re.sub(r"\d+", "*", name)
        sizes[kind] = sizes.get(kind, 0) + getattr(module, attribute).nbytes
    if not sizes:
        return None
    parts = (f"{kind} ({size / 1e6:.1f} MB)" for kind, size in sorted(sizes.items()))
    return "kept in 16 bits (not a projection): " + ", ".join(parts)


def bytes_by_kind(model: Any) -> dict[str, int]:
    """Bytes of weights by kind: `4-bit` (codes and their statistics), `16-bit`, `32-bit`."""
    counted = {"4-bit": 0, "16-bit": 0, "32-bit": 0}
    seen: set[int] = set()
    for module in model.modules():
        for value in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if value is None or id(value) in seen:
                continue
            seen.add(id(value))
            size = value.numel() * value.element_size()
            if isinstance(module, NF4Stack):
                counted["4-bit"] += size
            elif value.element_size() <= 2:
                counted["16-bit"] += size
            else:
                counted["32-bit"] += size
    return counted


def weights_in_four_bits(model: Any) -> int:
    """How many weights a model's 4-bit stacks hold or will hold."""
    return sum(stack.n * stack.size for _, stack in stacks(model))
