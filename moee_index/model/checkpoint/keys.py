"""Names of a checkpoint's tensors, and which of them belong to the text model.

A multi-modal checkpoint is named after the whole model (`model.language_model.layers.0…`), of which
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

    saved: the model that checkpoints are saved from, on the meta device. names: all its tensors,
    with their shapes. inner: where the text model lies in it, with a dot at the end, or "".
    """

    saved: Any
    names: Mapping[str, torch.Size]
    inner: str

    @property
    def prefix(self) -> str:
        """Of the base model in a model with a head."""
        return str(self.saved.base_model_prefix)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Patterns of tensors that nobody reads."""
        return tuple(getattr(self.saved, "_keys_to_ignore_on_load_unexpected", None) or ())

    @property
    def config(self) -> Any:
        """Of the whole model."""
        return self.saved.config

    @cached_property
    def conversions(self) -> tuple[Any, ...]:
        """transformers' renamings and converters; looked up late, for 4-bit forms need none."""
        return tuple(_conversions(self.saved))

    def own(self, name: str) -> str | None:
        """The text model's name for a tensor of the whole; None for another part's."""
        if not self.inner:
            return name
        if name.startswith(self.inner):
            return name.removeprefix(self.inner)
        return None if name in self.names else name

    def whole(self, name: str) -> str:
        """The name in the whole model of a tensor of the text model."""
        return self.inner + name

    def get_parameter(self, name: str) -> torch.Tensor:
        """The whole model's tensor without weights, as conversions ask for it to see its shape."""
        return torch.empty(self.names[name], device="meta")


def keep_naming(model: Any, whole: Any = None, inner: str = "") -> None:
    """Remember with a model how its checkpoint is named; `whole`: the model that it is part of."""
    whole = model if whole is None else whole
    names = {name: value.shape for name, value in whole.state_dict().items()}
    # Past `Module.__setattr__`: the whole is no part of its own part.
    model.__dict__["moee_naming"] = Naming(whole, names, f"{inner}." if inner else "")


def naming_of(model: Any) -> Naming:
    """What `keep_naming` remembered, before anything of the model became 4-bit."""
    naming: Naming = model.moee_naming
    return naming


def _conversions(model: Any) -> list[Any]:
    mapping = partial(internal, "transformers", "transformers.conversion_mapping")
    found = mapping("get_model_conversion_mapping")(model)
    if type(model).__name__ == "DeepseekOcr2TextModel":
        # As a vision model's inner class it has no mapping of its own: without this one it would
        # load with random experts.
        found = [*mapping("get_checkpoint_conversion_mapping")("qwen2_moe"), *found]
    return list(found)


def targets_of(converter: Any, first: str) -> list[str]:
    """All tensors that a converter makes, where the table gives the first one's name: it may make
    several of one (a fused gate and up projection taken apart)."""
    patterns = [pattern for pattern in converter.target_patterns if pattern]
    if len(patterns) < 2 or patterns[0] not in first:
        return [first]
    before, _, after = first.partition(patterns[0])
    return [before + pattern + after for pattern in patterns]
