"""The authors' way of running texts, on our own 4-bit weights, and the steps from it to ours.

Their code hands 128 texts in file order to a causal language model, padded to the longest, and
asks for the states of all layers, the router logits and, unasked, the head's logits of all
tokens. Here the same is computed with our kernels, so that what differs is the way alone: padding
tokens are given as real ones, all tokens are pooled (so that the last layer skips none), and
hooks keep what theirs returns. Their explicit attention mask and key/value cache are left out, in
their favour. Embeddings of the ways before `padding-free` mean nothing (padding is pooled); their
cost is what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from arithmetic import synchronize
from batches import bare, tokenize
from safetensors import safe_open
from torch import nn

from moee_index.encode.batches import group_equal, plan_batches
from moee_index.encode.encoder import Encoder
from moee_index.encode.prompts import parse_prompt
from moee_index.model.arch.routing import find_routers
from moee_index.model.run.model import RunningModel, TokenizedText

AUTHORS_BATCH = 128

# Each way is the one before it with one change.
WAYS = {
    "authors": "128 texts in file order, padding computed, all layers' states, head, all logits",
    "no-head": "without head, all layers' states and all tokens' router logits",
    "sorted": "batches sorted by length under the token budget",
    "unique": "equal texts computed once",
    "padding-free": "padding never reaches an expert",
    "product": "in the last layer only pooled tokens (Encoder.encode)",
}


@dataclass(frozen=True)
class Computed:
    """What a way computed: texts, and tokens that reached experts, `padding` of them padding."""

    texts: int
    tokens: int
    padding: int


class Ways:
    """All ways on one loaded encoder, which pools the last token under the prompt `none`."""

    def __init__(self, encoder: Encoder) -> None:
        if encoder.spec.pooling != "last" or encoder.spec.prompt != "none":
            raise SystemExit("the ways are compared under pooling last and prompt none")
        self.encoder = encoder
        self.running = encoder.running
        self._head: torch.Tensor | None = None
        self._head_is = ""

    @property
    def head_is(self) -> str:
        """Where the head's weights come from."""
        self.head()
        return self._head_is

    def run(self, way: str, texts: Sequence[str]) -> Computed:
        """Embed texts one way, tokenising included."""
        if way == "product":
            self.encoder.encode(texts)
            return self._counted([self.tokenized(texts)], unique=True)
        batches = self.batches(way, texts)
        if way == "padding-free":
            with pooling_all(self.running):
                for batch in batches:
                    self.running.embed([bare(text.ids) for text in batch])
            return self._counted(batches)
        with pooling_all(self.running):
            for batch in batches:
                padded = pad(batch)
                if way == "authors":
                    with keeping(self.running, self.head()):
                        self.running.embed(padded)
                else:
                    self.running.embed(padded)
        synchronize(self.running.device.value)
        return self._counted(batches, padded=True)

    def tokenized(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Texts under the prompt `none`."""
        return tokenize(self.running.checkpoint, list(texts), parse_prompt("none"))

    def batches(self, way: str, texts: Sequence[str]) -> list[list[TokenizedText]]:
        """The batches of a way, without padding."""
        found = self.tokenized(texts)
        if way in ("authors", "no-head"):
            return [
                found[start : start + AUTHORS_BATCH]
                for start in range(0, len(found), AUTHORS_BATCH)
            ]
        if way != "sorted":
            found = [found[group[0]] for group in group_equal([text.ids for text in found])]
        plan = plan_batches([len(text.ids) for text in found], self.encoder.batch_tokens)
        return [[found[item] for item in batch] for batch in plan]

    def head(self) -> torch.Tensor:
        """The language-model head [vocabulary, d] in the compute dtype: the checkpoint's, or its
        embedding where that is all there is."""
        if self._head is None:
            found = read_head(self.running)
            embedding = self.running.model.get_input_embeddings().weight
            self._head_is = "the checkpoint's" if found is not None else "its embedding"
            self._head = (found if found is not None else embedding.detach()).to(
                self.running.device.value, self.running.compute.value
            )
        return self._head

    def _counted(
        self, batches: list[list[TokenizedText]], *, padded: bool = False, unique: bool = False
    ) -> Computed:
        texts = [text for batch in batches for text in batch]
        if unique:
            texts = [texts[group[0]] for group in group_equal([text.ids for text in texts])]
        real = sum(len(text.ids) for text in texts)
        tokens = (
            sum(len(batch) * max(len(text.ids) for text in batch) for batch in batches)
            if padded
            else real
        )
        return Computed(texts=len(texts), tokens=tokens, padding=tokens - real)


def pad(batch: Sequence[TokenizedText]) -> list[TokenizedText]:
    """Texts as long as the longest; what is added counts as real, so that it is computed."""
    longest = max(len(text.ids) for text in batch)
    return [bare(text.ids + (0,) * (longest - len(text.ids))) for text in batch]


@contextmanager
def pooling_all(running: RunningModel) -> Iterator[None]:
    """Pool over all tokens of a text, so that every one is needed up to the last layer's end."""
    before, running.pooling = running.pooling, "mean"
    try:
        yield
    finally:
        running.pooling = before


@contextmanager
def keeping(running: RunningModel, head: torch.Tensor) -> Iterator[None]:
    """Keep for a pass what the authors' call returns: the states of all layers, the router logits
    of all tokens, and the head's logits of all tokens."""
    kept: list[Any] = []

    def keep(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept.append(output[index] if isinstance(output, tuple | list) else output)

        return hook

    def logits(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        kept.append(output)
        kept.append(nn.functional.linear(output, head))

    model = running.model
    hooks = [model.get_input_embeddings().register_forward_hook(keep(0))]
    hooks += [layer.register_forward_hook(keep(0)) for layer in model.layers]
    hooks += [
        router.module.register_forward_hook(keep(router.index)) for router in find_routers(model)
    ]
    hooks.append(model.norm.register_forward_hook(logits))
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def read_head(running: RunningModel) -> torch.Tensor | None:
    """`lm_head.weight` of a model's checkpoint, or None (tied, or left out of a 4-bit one)."""
    for file in running.checkpoint.weights:
        with safe_open(file, framework="pt") as tensors:
            if "lm_head.weight" in tensors.keys():  # noqa: SIM118 - no mapping
                found: torch.Tensor = tensors.get_tensor("lm_head.weight")
                return found
    return None
