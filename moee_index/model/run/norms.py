"""Norms of a card's model in one kernel each, where torch's own norm gives what a class's forward
does in several.

Classes write the same norm in many ways, some with a weight that is added to 1. So each is compared
with torch's on a few rows, with its own weight, and left alone where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

_PROBED_ROWS = 8

Forward = Callable[..., torch.Tensor]


def fuse_norms(norms: Iterable[nn.Module]) -> int:
    """Make norms run in one kernel each; the number of those that do."""
    fused = 0
    for norm in norms:
        epsilon = _epsilon(norm)
        if epsilon is not None:
            norm.forward = _in_one_kernel(norm, norm.forward, epsilon)
            fused += 1
    return fused


def _in_one_kernel(norm: nn.Module, forward: Forward, epsilon: float) -> Forward:
    def fused(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        weight = cast(torch.Tensor, norm.weight)
        if more or named or x.dtype != weight.dtype or x.shape[-1:] != weight.shape:
            return forward(x, *more, **named)
        return nn.functional.rms_norm(x, weight.shape, weight, epsilon)

    return fused


def _epsilon(norm: nn.Module) -> float | None:
    """With which of its numbers a norm is torch's root mean square norm; None if with none."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return None
    numbers = [value for value in vars(norm).values() if isinstance(value, float)]
    rows = torch.randn(_PROBED_ROWS, len(weight), generator=torch.Generator().manual_seed(0))
    # Small rows show what is added to the mean square.
    rows *= torch.logspace(0, -4, _PROBED_ROWS)[:, None]
    probe = rows.to(weight.device, weight.dtype)
    with torch.inference_mode():
        try:
            wanted = norm.forward(probe).float()
        except (TypeError, RuntimeError):  # it takes more than rows, or other ones
            return None
        for epsilon in numbers:
            found = nn.functional.rms_norm(probe, weight.shape, weight, epsilon).float()
            if found.shape == wanted.shape and _agree(found, wanted, weight.dtype):
                return epsilon
    return None


def _agree(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether values differ by no more than two roundings, which is what classes do."""
    return torch.allclose(found, wanted, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
