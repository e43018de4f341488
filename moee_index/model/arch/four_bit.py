"""Put a model's 4-bit modules in place before loading, and prove and count them after it.

Reads no file.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from moee_index.errors import ModelError
from moee_index.model.arch.conventions import holds_experts
from moee_index.model.arch.select import STAYS, Matrix, ModelPlan
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.quant_config import BITSANDBYTES
from moee_index.model.nf4.linear import NF4Linear
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.nf4.stack import NF4Stack, Workspace, stacks


def install_four_bits(plan: ModelPlan, checkpoint: Checkpoint, double_quant: bool) -> None:
    """Replace what becomes 4-bit by empty modules; all projections share a workspace.

    Raises ModelError naming a matrix that cannot be quantized to 4 bits.
    """
    workspace = Workspace()
    for matrix in plan.expert_stacks:
        turned = bool(getattr(matrix.module, "is_transposed", False)) and turns(checkpoint)
        _install_stack(matrix, checkpoint, double_quant, turned)
    for matrix in plan.own_matrices:
        _install_stack(matrix, checkpoint, double_quant)
    for matrix in plan.linears:
        rows, cols = matrix.value.shape
        _check_blocks(matrix.name, rows, cols, checkpoint)
        linear = NF4Linear(
            rows,
            cols,
            bias=matrix.module.bias is not None,
            double_quant=double_quant,
            workspace=workspace,
        )
        plan.model.set_submodule(matrix.name.rpartition(".")[0], linear)


def turns(checkpoint: Checkpoint) -> bool:
    """Whether matrices that a class keeps as [in, out] are quantised as [out, in].

    Not if they come in NF4 already, since those codes are taken as they are. A 4-bit checkpoint
    records it.
    """
    if checkpoint.quantization is not None:
        return bool(checkpoint.quantization.get("turned"))
    return checkpoint.source is None or checkpoint.source.kind != BITSANDBYTES


def _install_stack(
    matrix: Matrix, checkpoint: Checkpoint, double_quant: bool, turned: bool = False
) -> NF4Stack:
    """Replace a parameter of two or three dimensions by an empty stack."""
    shape = matrix.value.shape
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
            f"{checkpoint.name}: {name} is {rows} x {cols}, not a multiple of {BLOCK} weights, and "
            "cannot be quantised to 4 bits; take --bits 16"
        )


def left_in_16_bits(plan: ModelPlan) -> list[Matrix]:
    """Matrices of a 4-bit model that are neither in 4 bits nor among what stays by design, in
    whatever form they are kept (parameter, buffer, fused or not)."""
    left = []
    for name, module in plan.model.named_modules():
        if module in plan.routing or isinstance(module, (*STAYS, NF4Stack)):
            continue
        tensors = list(module.named_parameters(recurse=False))
        if holds_experts(module):
            tensors += module.named_buffers(recurse=False)
        for attribute, value in tensors:
            if not value.is_floating_point() or value.dim() < 2:
                continue
            if min(value.shape[-2:]) > 1 and not attribute.endswith("bias"):
                left.append(Matrix(f"{name}.{attribute}".lstrip("."), module, attribute))
    return left


def assert_four_bits(left: list[Matrix]) -> None:
    """Raise ModelError if an expert, dense MLP or attention matrix is among those that are left in
    16 or 32 bits."""
    for matrix in left:
        module, value = matrix.module, matrix.value
        if holds_experts(module) or isinstance(module, nn.Linear) or value.dim() > 2:
            raise ModelError(
                f"{matrix.name} {list(value.shape)} was left in {value.dtype}: "
                "not a 4-bit model; this is a bug, please report it, or take --bits 16"
            )


def told_in_16_bits(left: list[Matrix]) -> str | None:
    """One line that names the matrices left in 16 bits; None if there are none."""
    sizes: dict[str, int] = {}
    for matrix in left:
        kind = re.sub(r"\d+", "*", matrix.name)
        sizes[kind] = sizes.get(kind, 0) + matrix.value.nbytes
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
