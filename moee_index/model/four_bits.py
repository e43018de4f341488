"""What of a model is in 4 bits: put there before loading, proven after it, counted.

Knows modules and their kinds; reads no file.
"""

from __future__ import annotations

from typing import Any

from moee_index.errors import ModelError
from moee_index.model.architecture import expert_stacks, find_routers, quantisable_linears
from moee_index.model.checkpoint import Checkpoint
from moee_index.model.nf4 import NF4Linear, NF4Stack, Workspace, stacks
from moee_index.model.packed import PackedStack
from moee_index.model.quantizer import BLOCK


def install_four_bits(model: Any, checkpoint: Checkpoint, double_quant: bool) -> None:
    """Replace what is for 4 bits by empty modules; all projections share a workspace."""
    workspace = Workspace()
    stacked = expert_stacks(model)
    for module in model.modules():
        if type(module).__name__.endswith("Experts") and not hasattr(module, "has_gate"):
            raise ModelError(
                f"{checkpoint.name}: the experts of {checkpoint.config.get('model_type')!r} do not "
                "use transformers' experts interface and cannot be had in 4 bits; take --bits 16"
            )
    for name, module, attribute in stacked:
        count, rows, cols = getattr(module, attribute).shape
        _check_blocks(name, rows, cols)
        del module._parameters[attribute]
        module.add_module(attribute, NF4Stack(count, rows, cols, double_quant=double_quant))
    for name, linear in quantisable_linears(model, find_routers(model)):
        rows, cols = linear.weight.shape
        _check_blocks(name, rows, cols)
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


def _check_blocks(name: str, rows: int, cols: int) -> None:
    if rows * cols % BLOCK:
        raise ModelError(
            f"{name} is {rows} x {cols}, no multiple of {BLOCK} weights, and cannot be had in "
            "4 bits; take --bits 16"
        )


def assert_four_bits(model: Any) -> None:
    """Raise ModelError if any expert, dense MLP or attention matrix is left in 16 or 32 bits,
    in whatever form it is kept (parameter, buffer, fused or not)."""
    routers = find_routers(model)
    embedding = model.get_input_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, NF4Stack | PackedStack) or module is embedding:
            continue
        if any(name == router.name for router in routers):
            continue
        kept = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for attribute, value in kept:
            if value is None or not value.is_floating_point() or value.dim() < 2:
                continue
            if min(value.shape[-2:]) <= 1:  # a gate with one output, a depthwise convolution
                continue
            raise ModelError(
                f"{name}.{attribute} {list(value.shape)} was left in {value.dtype}: "
                "not a 4-bit model; this is a bug, please report it, or take --bits 16"
            )


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
            if isinstance(module, NF4Stack | PackedStack):
                counted["4-bit"] += size
            elif value.element_size() <= 2:
                counted["16-bit"] += size
            else:
                counted["32-bit"] += size
    return counted


def weights_in_four_bits(model: Any) -> int:
    """How many weights a model's 4-bit stacks hold or will hold."""
    return sum(stack.n * stack.size for _, stack in stacks(model))
