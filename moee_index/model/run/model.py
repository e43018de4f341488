"""A loaded model: token ids in, HS and RW out, from one forward pass of the base model.

No language-model head, no list of all layers' states: HS is read from the last hidden state after
the final norm, RW is caught at the routers by hooks that keep only what the pooling needs (paper,
section 3; camera-ready 4.1: last token for both).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moee_index.backends import has_avx512bf16, limit_kernel_caches, set_threads
from moee_index.errors import ModelError
from moee_index.limits import bound_processors, processor_limit
from moee_index.model.arch.build import rw_kind
from moee_index.model.arch.four_bit import bytes_by_kind, told_in_16_bits
from moee_index.model.arch.routing import Router, find_routers, raw_scores
from moee_index.model.arch.tested import is_tested
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.load.cache import Cache
from moee_index.model.load.load import load_model
from moee_index.model.precision import Choice, Storage
from moee_index.model.run.blocks import run_in_blocks
from moee_index.types import Embeddings, Notify, Progress, ignore

if TYPE_CHECKING:
    from moee_index.model.run.prefix import FixedBeginning


@dataclass(frozen=True)
class TokenizedText:
    """One text as the model sees it.

    ids: token ids with special tokens and template. own: [start, end) of the document's own
    tokens within ids, over which `mean` pools.
    """

    ids: tuple[int, ...]
    own: tuple[int, int]

    def without(self, count: int) -> TokenizedText:
        """What follows the first `count` tokens."""
        return TokenizedText(self.ids[count:], (self.own[0] - count, self.own[1] - count))


# Tokens that sharing a prompt's beginning must spare in a batch.
_WORTH_SHARING = 256


def _shared_tokens(texts: Sequence[TokenizedText]) -> int:
    """How many tokens all texts begin with that are the prompt's, at least one being left."""
    most = min(min(text.own[0], len(text.ids) - 1) for text in texts)
    first = texts[0].ids
    for count in range(most):
        if any(text.ids[count] != first[count] for text in texts):
            return count
    return most


def choose_device(asked: str) -> Choice:
    """`auto`: the first CUDA device where there is one, else the CPU."""
    if asked == "auto":
        if torch.cuda.is_available():
            return Choice(torch.device("cuda:0"), "a CUDA device is there")
        return Choice(torch.device("cpu"), "no CUDA device")
    device = torch.device(asked)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"--device {asked}: torch finds no CUDA device; take --device cpu")
    return Choice(device, "as asked")


def choose_compute(bits: int, device: torch.device) -> Choice:
    """bfloat16 where the processor multiplies it, float32 elsewhere and for 32 bits."""
    if bits == 32:
        return Choice(torch.float32, "32 bits were asked for")
    if device.type == "cuda":
        return Choice(torch.bfloat16, "CUDA device")
    if bits == 16:
        return Choice(torch.bfloat16, "16 bits were asked for")
    if has_avx512bf16():
        return Choice(torch.bfloat16, "the processor has AVX512-BF16")
    return Choice(torch.float32, "the processor has no bfloat16 arithmetic")


def choose_threads(asked: int | None) -> Choice:
    """As asked, but never more than there are processors to run on; else the libraries' own choice
    within what the process may use. The reason is empty where nothing is to be told."""
    bound, limit, machine = bound_processors(), processor_limit(), os.cpu_count() or 1
    if asked is not None and asked > bound.value:
        return Choice(
            bound.value,
            f"--threads {asked} is more than the {bound.value} processors there are "
            f"({bound.reason}): {bound.value} compute, for more would wait for one another",
        )
    if asked is not None:
        slower = (
            f"--threads {asked} is more than the {limit.value} processors that this process may "
            f"use ({limit.reason}): not faster than --threads {limit.value}, as a rule"
        )
        return Choice(asked, slower if asked > limit.value else "")
    threads = min(limit.value, set_threads(None))
    few = f"{threads} threads on {machine} processors: {limit.reason}"
    return Choice(threads, few if threads == limit.value < machine else "")


class RunningModel:
    """A base model with its routers hooked, ready for batches of token ids.

    shares_beginnings: whether a prompt's fixed beginning may be computed once for many texts; who
    hooks the model to see every token sets it to False.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        bits: int,
        double_quant: bool,
        rw: str,
        pooling: str,
        device: str = "auto",
        threads: int | None = None,
        few_texts: bool = False,
        cache: Cache | None = None,
        progress: Progress | None = None,
        tell: Notify | None = None,
    ) -> None:
        self._tell = tell or ignore
        self._most: int | None = None  # tokens of a batch, padding included, that fit the memory
        self.checkpoint = checkpoint
        self.pooling = pooling
        self.rw = rw_kind(rw, checkpoint)
        limit_kernel_caches()
        chosen = choose_threads(threads)
        if chosen.reason:
            self._tell(chosen.reason)
        self.threads = set_threads(chosen.value)
        self.device = choose_device(device)
        self.compute = choose_compute(bits, self.device.value)
        storage = Storage(bits, double_quant, self.compute.value, self.device.value)
        loaded = load_model(
            checkpoint,
            storage,
            few_texts=few_texts,
            cache=cache,
            progress=progress,
            tell=self._tell,
        )
        self.model, self.layout = loaded.model, loaded.layout
        self._loaded = loaded
        routers = find_routers(self.model)
        if self.device.value.type == "cpu":
            run_in_blocks(self.model, [one.module for one in routers], loaded.real_tokens)
        self._routing: list[torch.Tensor] = []
        self._weights = torch.empty(0)
        self._shared: FixedBeginning | None = None
        self.shares_beginnings = not few_texts
        for router in routers:
            self._listen(router)
        if bits == 4 and (left := told_in_16_bits(self.model)) is not None:
            self._tell(f"{checkpoint.name}: {left}")
        if not is_tested(self.model):
            kind = checkpoint.config.get("model_type")
            self._tell(
                f"{checkpoint.name}: models of type {kind!r} are newer than this moee-index and "
                "were not tested with it"
            )
        # One tiny pass tells how wide both are, whatever a config calls its sizes.
        found = self.embed([TokenizedText((0,), (0, 1))])
        self.hs_dim, self.rw_dim = found.hs.shape[1], found.rw.shape[1]

    def bytes(self) -> dict[str, int]:
        """Bytes of weights in memory by kind."""
        return bytes_by_kind(self.model)

    def embed(self, texts: Sequence[TokenizedText]) -> Embeddings:
        """HS [n, d] and RW [n, layers * experts] of one batch, float32, in the order given.

        Where a GPU's memory runs out, the batch and all later ones are halved until they fit.
        Raises ModelError where a single text does not fit, or a value is not finite.
        """
        size = len(texts) * max(len(text.ids) for text in texts)
        if self._most is None or size <= self._most or len(texts) == 1:
            try:
                return self._embed(texts)
            except torch.OutOfMemoryError as error:
                if len(texts) == 1:
                    raise ModelError(
                        f"a text of {size} tokens does not fit the memory of {self.device.value}; "
                        "lower --max-tokens, or take --device cpu"
                    ) from error
                self._most = size // 2
                self._tell(
                    f"the memory of {self.device.value} does not hold a batch of {size} tokens: "
                    f"batches are halved to {self._most}"
                )
            torch.cuda.empty_cache()
        middle = len(texts) // 2
        parts = [self.embed(texts[:middle]), self.embed(texts[middle:])]
        return Embeddings(
            np.concatenate([part.hs for part in parts]), np.concatenate([part.rw for part in parts])
        )

    def _embed(self, texts: Sequence[TokenizedText]) -> Embeddings:
        """One batch in one pass.

        Right padding, no attention mask: attention is causal, so a real token never sees padding,
        and padding never reaches an expert. In the last layer only tokens that are pooled do.
        """
        beginning = self._beginning(texts)
        if beginning is not None:
            texts = [text.without(len(beginning.tokens)) for text in texts]
        lengths = [len(text.ids) for text in texts]
        longest = max(lengths)
        ids = np.zeros((len(texts), longest), dtype=np.int64)
        weights = np.zeros((len(texts), longest), dtype=np.float32)
        real = np.zeros((len(texts), longest), dtype=bool)
        for row, text in enumerate(texts):
            ids[row, : lengths[row]] = text.ids
            real[row, : lengths[row]] = True
            start, end = text.own if self.pooling == "mean" else (lengths[row] - 1, lengths[row])
            weights[row, start:end] = 1.0 / (end - start)
        device = self.device.value
        self._weights = torch.from_numpy(weights).to(device)
        self._loaded.real_tokens.rows = (
            None if real.all() else torch.from_numpy(np.flatnonzero(real)).to(device)
        )
        self._loaded.real_tokens.lengths = None if real.all() else lengths
        self._loaded.real_tokens.count = self._loaded.last_layer_tokens.count = real.size
        self._loaded.last_layer_tokens.rows = torch.from_numpy(np.flatnonzero(weights)).to(device)
        self._routing = []
        with torch.inference_mode():
            states = self.model(
                input_ids=torch.from_numpy(ids).to(device),
                use_cache=False,
                **({} if beginning is None else {beginning.argument: beginning}),
            ).last_hidden_state
            hs = self._pool(states)
            rw = torch.cat(self._routing, dim=1)
        self._routing = []
        found = Embeddings(hs.cpu().numpy(), rw.cpu().numpy())
        for name, values in (("HS", found.hs), ("RW", found.rw)):
            if not np.isfinite(values).all():
                raise ModelError(
                    f"{self.checkpoint.name} gave a value that is not finite in {name} (compute "
                    f"dtype {self.compute.value}); take --bits 32 or check the checkpoint"
                )
        return found

    def _beginning(self, texts: Sequence[TokenizedText]) -> FixedBeginning | None:
        """Keys and values of the prompt's fixed beginning, where these texts are enough to gain by
        it. A function of the texts alone, so that a batch always gives the same bytes."""
        count = _shared_tokens(texts)
        if not self.shares_beginnings or count < 2 or count * len(texts) < _WORTH_SHARING:
            return None
        tokens = texts[0].ids[:count]
        if self._shared is None or self._shared.tokens != tokens:
            from moee_index.model.run.prefix import compute

            self._weights = torch.zeros((1, count), device=self.device.value)
            self._loaded.real_tokens.rows = self._loaded.real_tokens.lengths = None
            self._loaded.last_layer_tokens.rows = None
            self._shared = compute(self.model, tokens, self.device.value)
            self._routing = []
            self.shares_beginnings = self._shared is not None
        return self._shared

    def _pool(self, values: torch.Tensor) -> torch.Tensor:
        """Weighted sum over tokens, [batch, length, n] -> float32 [batch, n]."""
        if self.pooling == "last":
            rows, columns = self._weights.nonzero(as_tuple=True)
            return values[rows, columns].float()
        return torch.bmm(self._weights[:, None, :], values.float())[:, 0]

    def _listen(self, router: Router, checked: bool = False) -> None:
        """Keep what the pooling needs of a router's scores. checked: they are no probabilities."""

        def keep(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal checked
            logits = output[router.index] if isinstance(output, (tuple, list)) else output
            batch, length = self._weights.shape
            if logits.numel() != batch * length * logits.shape[-1]:
                raise ModelError(
                    f"{self.checkpoint.name}: {type(module).__name__} gives scores of shape "
                    f"{list(logits.shape)} for {batch * length} tokens, not one row a token, so "
                    "there is no RW of a token; take another model"
                )
            if not checked:
                checked = True
                scoring = raw_scores(router, logits)
                if scoring is not router:
                    hook.remove()
                    self._listen(scoring, checked=True)
            logits = logits.view(batch, length, -1).float()
            if self.rw == "softmax":
                logits = logits.softmax(-1)
            elif self.rw == "sigmoid":
                logits = logits.sigmoid()
            self._routing.append(self._pool(logits))

        hook = router.module.register_forward_hook(keep)
