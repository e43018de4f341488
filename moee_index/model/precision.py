"""How a model's weights are stored and computed with: dtypes and devices, each with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Storage:
    """How weights are stored and computed with."""

    bits: int
    double_quant: bool
    compute: torch.dtype
    device: torch.device

    @property
    def kept(self) -> torch.dtype:
        """dtype of everything that is not in 4 bits (norms, routers, embeddings, biases)."""
        return torch.float32 if self.bits == 32 else torch.bfloat16


@dataclass(frozen=True)
class Choice:
    """A value chosen for the user, with the reason, which is logged once."""

    value: Any
    reason: str
