"""The product's encoder behind stored vectors: a text is computed once, ever, and no weight is read
while every text asked for is in the store.

What it gives is raw. Fulfils `TextEncoder`, so that an index is built and searched through it like
through the encoder itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from moee_index.bench.vector_cache.store import StoredPlan, StoreKey, TextRows, VectorStore
from moee_index.bench.vector_cache.table import Shelf
from moee_index.encode.options import IndexDefaults
from moee_index.encode.prompts import parse_prompt
from moee_index.encode.token_table import token_weights_of, without_token_weights
from moee_index.errors import FingerprintMismatchError, MisuseError
from moee_index.index.store.rows import RowNumbers
from moee_index.model.checkpoint.find import Checkpoint, find_checkpoint
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import (
    IDF,
    PARTS,
    Chunking,
    Embeddings,
    EncoderOptions,
    EncoderSpec,
    EncodingPlan,
    FoundModel,
    Pair,
    Progress,
    Span,
    TextEncoder,
)

# Texts planned together, as in a build.
WINDOW = 1024
# A commit waits for the disk some 20 ms: batches that take less than this share one.
COMMIT_SECONDS = 0.2
# Stored texts are planned into batches for their order alone; nothing is computed.
_STORED_BATCH_TOKENS = 8192

_FINDING = ("revision", "offline")


class LoadedPlan(EncodingPlan, Protocol):
    """What is needed of `plan.Plan`: the batch as the model sees it, too."""

    def distinct(self, batch: int) -> tuple[Sequence[Any], npt.NDArray[np.int64]]: ...


class LoadedEncoder(TextEncoder, Protocol):
    """What is needed of `Encoder` once it is loaded."""

    def plan(self, texts: Sequence[str], *, query: bool = False) -> LoadedPlan: ...
    def with_prompt(self, prompt: str) -> LoadedEncoder: ...


@dataclass(frozen=True)
class Identity(EncoderOptions, FoundModel):
    """What an encoder is before it is loaded: an `EncoderSpec` without dimensions.

    dequantised: see `StoreKey`. Raises MisuseError for an unknown prompt, when a key is asked for.
    """

    dequantised: bool = False
    token_weights: str | None = None

    def key(self, query: bool) -> StoreKey:
        """Where vectors of texts, or of queries, are kept: one place where the prompts agree."""
        prompt = parse_prompt(self.query_prompt if query else self.prompt)
        return StoreKey(
            fingerprint=self.fingerprint,
            dequantised=self.dequantised,
            template=f"{prompt.before}{{text}}{prompt.after}",
            token_weights=self.token_weights,
            **{**self.options(without=("query_prompt",)), "prompt": prompt.name},
        )

    def spec(self, dims: Pair[int]) -> EncoderSpec:
        """With dimensions it is an encoder's spec."""
        fields = vars(self).copy()
        del fields["dequantised"]
        return EncoderSpec(**fields, hs_dim=dims.hs, rw_dim=dims.rw)


class Loader:
    """Loads an encoder at the first need and keeps it; shared by all prompts of one model.

    loaded: whether it did. seconds: what loading took.
    """

    def __init__(self, load: Callable[[], LoadedEncoder]) -> None:
        self._load = load
        self.loaded = False
        self.seconds = 0.0

    @cached_property
    def encoder(self) -> LoadedEncoder:
        """The encoder, loaded now if it was not yet."""
        started = time.perf_counter()
        encoder = self._load()
        self.loaded, self.seconds = True, time.perf_counter() - started
        return encoder


class StoredEncoder:
    """Embeds texts from the store, and what is missing there with the model, loaded at need.

    Make one with `StoredEncoder.open`. texts_computed, tokens_computed, seconds_computed: what this
    object had to embed, loading aside. instruction: stands before every text, queries included,
    inside the prompt.
    """

    instruction = ""

    def __init__(
        self,
        store: VectorStore,
        load: Callable[[], LoadedEncoder] | Loader,
        identity: Identity,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.store = store
        self.identity = identity
        self.checkpoint = checkpoint
        self._loader = load if isinstance(load, Loader) else Loader(load)
        self.texts_computed = 0
        self.tokens_computed = 0
        self.seconds_computed = 0.0

    @classmethod
    def open(
        cls, store: VectorStore, model: str | Path | None = None, **options: Any
    ) -> StoredEncoder:
        """Find a model and settle its options as `Encoder.load` would; no weight is read.

        options: those of `Encoder.load`. Raises ModelError, MisuseError.
        """
        from moee_index.encode.encoder import Encoder
        from moee_index.encode.options import resolve_options
        from moee_index.model.arch.build import rw_kind

        found = {name: options[name] for name in _FINDING if name in options}
        checkpoint = find_checkpoint(model, **found)
        asked = {name: options.get(name) for name in EncoderOptions.names()}
        settled = resolve_options(checkpoint, asked)
        weights = token_weights_of(checkpoint, settled.pooling)
        if settled.pooling == IDF and weights is None:
            raise without_token_weights(checkpoint.name)
        identity = Identity(
            model=checkpoint.name,
            path=str(checkpoint.path),
            revision=checkpoint.revision,
            fingerprint=checkpoint.fingerprint,
            dequantised=checkpoint.quantization is not None and settled.bits != 4,
            token_weights=weights.checksum if weights is not None else None,
            **{**settled.options(), "rw": rw_kind(settled.rw, checkpoint)},
        )
        return cls(store, lambda: Encoder.load(model, **options), identity, checkpoint)

    def with_prompt(self, prompt: str, query_prompt: str | None = None) -> StoredEncoder:
        """The same model, loaded once for all, under another prompt. Raises MisuseError."""
        name = parse_prompt(prompt).name
        identity = replace(
            self.identity,
            prompt=name,
            query_prompt=name if query_prompt is None else parse_prompt(query_prompt).name,
        )
        return StoredEncoder(self.store, self._loader, identity, self.checkpoint)

    def with_instruction(self, instruction: str) -> StoredEncoder:
        """The same model and prompt with an instruction before every text."""
        other = StoredEncoder(self.store, self._loader, self.identity, self.checkpoint)
        other.instruction = instruction
        return other

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loader.loaded

    @property
    def seconds_loading(self) -> float:
        """What loading the model took, 0 while it is not loaded."""
        return self._loader.seconds

    @property
    def spec(self) -> EncoderSpec:
        """Everything that decides an embedding. Loads the model where nothing of it is stored."""
        for query in (False, True):
            dims = self._shelf(query).dims
            if dims is not None:
                return self.identity.spec(dims)
        return self.identity.spec(self.loaded_encoder().spec.dims)

    @property
    def batch_tokens(self) -> int:
        """A constant: a plan over stored texts computes nothing."""
        return _STORED_BATCH_TOKENS

    @property
    def language(self) -> str | None:
        """As `Encoder.language`: whose words the indexes of the bench stem."""
        return None if self.checkpoint is None else IndexDefaults.of(self.checkpoint).language

    @property
    def token_weights(self) -> TokenWeights | None:
        """The table that texts are pooled by, where they are. Loads the model."""
        return self.loaded_encoder().token_weights

    def with_token_weights(self, weights: TokenWeights) -> NoReturn:
        """Raises MisuseError: stored vectors are pooled already."""
        raise MisuseError("vectors that are stored were pooled by the token weights of their model")

    def count_tokens(self, texts: Sequence[str], counts: TokenCounts) -> None:
        """As `TextEncoder.count_tokens`. Loads the model, whose tokenizer it takes."""
        self.loaded_encoder().count_tokens(texts, counts)

    def with_batch_tokens(self, batch_tokens: int) -> StoredEncoder:
        """This encoder: its plans do not depend on a budget."""
        return self

    # Vectors

    def ensure(
        self, texts: Sequence[str], *, query: bool = False, progress: Progress | None = None
    ) -> RowNumbers:
        """Embed what is not stored, or damaged there, equal texts once; returns each text's row,
        int64 [n].

        progress: (done, total) over the texts that had to be embedded. Batches are kept as they
        are done, so an interrupted call goes on where it stopped.
        Raises ModelError, StorageError.
        """
        shelf = self._shelf(query)
        texts = self._instructed(texts)
        rows = shelf.rows_of(texts)
        missing = np.flatnonzero(shelf.missing(rows))
        if not len(missing):
            return rows
        if damaged := int((np.unique(rows[missing]) >= 0).sum()):
            self.store.notify(f"damaged vectors are made anew: {damaged} in {shelf.path}")
        distinct = dict.fromkeys(texts[position] for position in missing.tolist())
        self._compute(shelf, list(distinct), query, progress)
        return shelf.rows_of(texts)

    def encode(
        self, texts: Sequence[str], *, query: bool = False, progress: Progress | None = None
    ) -> Embeddings:
        """Raw HS float32 [n, d] and RW float32 [n, layers * experts], in the texts' order."""
        rows = self.ensure(texts, query=query, progress=progress)
        if not len(rows):
            return Embeddings(*(np.empty((0, dim), np.float32) for _, dim in self.spec.dims))
        return self._shelf(query).take(rows)

    def rows(self, texts: Sequence[str], *, query: bool = False) -> TextRows:
        """The texts' raw vectors, embedded now where they are missing, but read at need."""
        return TextRows(self._shelf(query), self.ensure(texts, query=query))

    def plan(self, texts: Sequence[str], *, query: bool = False) -> StoredPlan:
        """The plan of one window, whose batches are read from the store."""
        return StoredPlan(self.rows(texts, query=query))

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        """As `TextEncoder.passages`. Loads the model, whose tokenizer it takes."""
        return self.loaded_encoder().passages(documents, chunking)

    def tokens(self, texts: Sequence[str], *, query: bool = False) -> int:
        """Tokens of the distinct ones among texts that are stored, templates included."""
        shelf = self._shelf(query)
        rows = np.unique(shelf.rows_of(self._instructed(texts)))
        return int(shelf.tokens_of(rows[rows >= 0]).sum())

    def _instructed(self, texts: Sequence[str]) -> Sequence[str]:
        return [self.instruction + text for text in texts] if self.instruction else texts

    def _shelf(self, query: bool) -> Shelf:
        return self.store.shelf(self.identity.key(query))

    def loaded_encoder(self) -> LoadedEncoder:
        """The encoder itself, under the prompt for texts; loaded now if it was not yet.

        Raises ModelError; FingerprintMismatchError where its files changed since it was found.
        """
        return self._under(self.identity.prompt)

    def _under(self, prompt: str) -> LoadedEncoder:
        was_loaded = self.loaded
        encoder = self._loader.encoder
        if not was_loaded:
            decisive = EncoderOptions.names(without=("prompt", "query_prompt"))
            for name in ("fingerprint", "token_weights", *decisive):
                mine, theirs = getattr(self.identity, name), getattr(encoder.spec, name)
                if mine != theirs:
                    raise FingerprintMismatchError(
                        f"the model that was loaded has {name} {theirs}, and {mine} was expected; "
                        "did its files change? start again"
                    )
        return encoder if encoder.spec.prompt == prompt else encoder.with_prompt(prompt)

    def _compute(
        self, shelf: Shelf, texts: Sequence[str], query: bool, progress: Progress | None
    ) -> None:
        encoder = self._under(self.identity.query_prompt if query else self.identity.prompt)
        pending: list[tuple[list[str], Embeddings, list[int], list[bool]]] = []
        done = 0
        started = committed = time.perf_counter()
        for first in range(0, len(texts), WINDOW):
            window = texts[first : first + WINDOW]
            plan = encoder.plan(window)
            for number, positions in enumerate(plan.batches):
                embeddings = plan.encode(number)
                sequences, places = plan.distinct(number)
                lengths = [len(each.ids) for each in sequences]
                pending.append(
                    (
                        [window[position] for position in positions],
                        embeddings,
                        [lengths[place] for place in places],
                        [plan.truncated[position] for position in positions],
                    )
                )
                self.texts_computed += len(positions)
                self.tokens_computed += sum(lengths)
                done += len(positions)
                if time.perf_counter() - committed >= COMMIT_SECONDS or done == len(texts):
                    shelf.put(*_joined(pending))
                    pending, committed = [], time.perf_counter()
                self.seconds_computed += time.perf_counter() - started
                started = time.perf_counter()
                if progress is not None:
                    progress("embedding", done, len(texts))
        self._keep_facts()

    # Facts

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the model beside its vectors: `parameters`, `embedding_parameters`,
        `active_parameters` (`model_facts.count_parameters`), and once it has run here
        `memory_bytes`, `device`, `compute`. Counted at the first call, then kept in the store."""
        shelf = self._shelf(False)
        facts = shelf.facts
        if "parameters" not in facts and self.checkpoint is not None:
            from moee_index.bench.adapter.model_facts import count_parameters

            facts |= count_parameters(self.checkpoint)
            shelf.keep_facts(facts)
        return facts

    def _keep_facts(self) -> None:
        """What only a loaded model can tell."""
        shelf = self._shelf(False)
        running = getattr(self._loader.encoder, "running", None)
        if running is not None and "memory_bytes" not in shelf.facts:
            shelf.keep_facts(
                {
                    "memory_bytes": sum(running.bytes().values()),
                    "device": str(running.device.value),
                    "compute": str(running.compute.value).removeprefix("torch."),
                }
            )


def _joined(batches: Sequence[tuple[list[str], Embeddings, list[int], list[bool]]]) -> Any:
    """Batches as one."""
    texts, embeddings, tokens, truncated = zip(*batches, strict=True)
    hs, rw = (np.concatenate([each[part] for each in embeddings]) for _, part in PARTS)
    return [*chain(*texts)], Embeddings(hs, rw), [*chain(*tokens)], [*chain(*truncated)]
