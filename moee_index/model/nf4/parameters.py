"""Put tensors into an empty model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from moee_index.errors import ModelError
from moee_index.model.nf4.stack import NF4Stack


def four_bit_home(model: Any, target: str) -> NF4Stack | None:
    """The 4-bit stack for a checkpoint name, or None if that tensor stays dense."""
    try:
        found = model.get_submodule(target)
    except AttributeError:
        return None
    return found if isinstance(found, NF4Stack) else None


def owner(model: Any, target: str) -> tuple[nn.Module, str]:
    """(module, attribute) of a parameter or buffer."""
    path, _, attribute = target.rpartition(".")
    return model.get_submodule(path), attribute


def under(
    tensors: Mapping[str, torch.Tensor] | None, path: str, names: Iterable[str]
) -> dict[str, torch.Tensor] | None:
    """The tensors named `path.name`, by name; None for None."""
    if tensors is None:
        return None
    return {name: tensors[f"{path}.{name}"] for name in names}


def assign(module: nn.Module, attribute: str, value: torch.Tensor) -> None:
    """Replace a parameter or buffer by a tensor."""
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[attribute] = value


def dense_dtype(model: Any, name: str, value: torch.Tensor, kept: torch.dtype) -> torch.dtype:
    """The dtype of a tensor that is not in 4 bits: `kept`, but float32 where the model's class
    requires it (a bias that corrects a router's choice); integers stay as they are."""
    if not value.is_floating_point():
        return value.dtype
    strict = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    insists = any(re.search(part.replace("*", ".*"), name) for part in strict)
    return torch.float32 if insists else kept


def check_shape(target: str, key: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise ModelError naming the tensor unless its shape is the one config.json requires."""
    if found != wanted:
        raise ModelError(
            f"{key} has shape {list(found)}, but config.json requires {list(wanted)} ({target})"
        )
