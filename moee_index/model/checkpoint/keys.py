"""Names of a checkpoint's tensors, and which of them belong to the text model.

A multi-modal checkpoint is named after the full model (`model.language_model.layers.0…`), of which
only the text model is built and loaded. The renamings and conversions are transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from moee_index.dependencies import internal


@dataclass(frozen=True)
class Naming:
    """From names on disk to names of the text model.

    saved: the full model, which checkpoints are saved from, on the meta device. names: all its
    tensors, with their shapes. inner: prefix of the text model's tensors in it, or "".
    """

    saved: Any
    names: Mapping[str, torch.Size]
    inner: str

    @property
    def prefix(self) -> str:
        """The base model's name in a model with a head."""
        return str(self.saved.base_model_prefix)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Patterns of tensors that are never read."""
        return tuple(getattr(self.saved, "_keys_to_ignore_on_load_unexpected", None) or ())

    @property
    def config(self) -> Any:
        """The full model's config."""
        return self.saved.config

    @cached_property
    def conversions(self) -> tuple[Any, ...]:
        """transformers' renamings and converters. Looked up late, as 4-bit forms need none."""
        return tuple(_conversions(self.saved))

    def in_text_model(self, name: str) -> str | None:
        """Map a full-model tensor name to the text model's; None if it belongs to another
        component."""
        if not self.inner:
            return name
        if name.startswith(self.inner):
            return name.removeprefix(self.inner)
        return None if name in self.names else name

    def in_full_model(self, name: str) -> str:
        """Map a text-model tensor name to the full model's."""
        return self.inner + name

    def get_parameter(self, name: str) -> torch.Tensor:
        """A full-model tensor without weights. Conversions ask for it to see its shape."""
        return torch.empty(self.names[name], device="meta")


def naming_of(saved: Any, inner: str = "") -> Naming:
    """How checkpoints of a model are named, before anything of it becomes 4-bit. inner: the name
    of the text model in it; "" if it is the text model."""
    names = {name: value.shape for name, value in saved.state_dict().items()}
    return Naming(saved, names, f"{inner}." if inner else "")


def _conversions(model: Any) -> list[Any]:
    mapping = partial(internal, "transformers", "transformers.conversion_mapping")
    entries = mapping("get_model_conversion_mapping")(model)
    if type(model).__name__ == "DeepseekOcr2TextModel":
        # As a vision model's inner class it has no mapping of its own: without this one it would
        # load with random experts.
        entries = [*mapping("get_checkpoint_conversion_mapping")("qwen2_moe"), *entries]
    return list(entries)


def targets_of(converter: Any, first: str) -> list[str]:
    """All tensors that a converter makes, given the first one's name. There may be several, as
    when a fused gate and up projection is split."""
    patterns = [pattern for pattern in converter.target_patterns if pattern]
    if len(patterns) < 2 or patterns[0] not in first:
        return [first]
    before, _, after = first.partition(patterns[0])
    return [before + pattern + after for pattern in patterns]
