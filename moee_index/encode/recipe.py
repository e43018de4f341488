"""How another process loads an encoder: options that can be told to it, and no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moee_index.types import EncoderSpec, Notify

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder


@dataclass(frozen=True)
class Recipe:
    """options: of `Encoder.load`, or of `Encoder.for_spec` with what an index was built with."""

    options: Mapping[str, Any]
    built_with: EncoderSpec | None = None

    def load(self, *, place: int, threads: int | None, notify: Notify) -> Encoder:
        """place: which of several processes on one machine it is, from 0; each takes another of
        the machine's cards. Raises what `Encoder.load` raises."""
        from moee_index.backends import load_torch
        from moee_index.encode.encoder import Encoder

        device = self.options.get("device", "auto")
        if device in ("auto", "cuda") and (cards := load_torch().cuda.device_count()) > 1:
            device = f"cuda:{place % cards}"
        options = {**self.options, "device": device, "threads": threads, "notify": notify}
        if self.built_with is None:
            return Encoder.load(**options)
        return Encoder.for_spec(self.built_with, **options)
