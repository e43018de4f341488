"""Texts → Embeddings: the one encoder behind build, query, rerank, embed and the bench.

Joins tokenizer, prompts, batches and a running model. Reading corpora and keeping vectors is left
to `readers` and `index`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TypedDict, Unpack

import numpy as np

from moee_index.encode.batches import group_equal, plan_batches, window_of
from moee_index.encode.chunking import SECTION, divide, divide_long
from moee_index.encode.options import IndexDefaults, check_count, resolve_options
from moee_index.encode.plan import Plan
from moee_index.encode.prompts import parse_prompt
from moee_index.encode.recipe import Recipe
from moee_index.encode.token_table import token_weights_of, without_token_weights
from moee_index.encode.tokenizer import Tokenized, Tokenizer
from moee_index.errors import FingerprintMismatchError, MisuseError, ModelError, counted
from moee_index.model.arch.build import rw_kind
from moee_index.model.checkpoint.find import BUNDLED, Checkpoint, find_checkpoint, open_checkpoint
from moee_index.model.load.cache import Cache
from moee_index.model.nf4.native.library import BITSANDBYTES
from moee_index.model.run.model import RunningModel, TokenizedText
from moee_index.text import check_texts
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import (
    IDF,
    LEAST_SIZE,
    AskedOptions,
    Chunking,
    Embeddings,
    EncoderOptions,
    EncoderSpec,
    Notify,
    Progress,
    Span,
    ignore,
    joined,
)

CPU_BATCH_TOKENS = 16384
CUDA_BATCH_TOKENS = 65536


class RunOptions(TypedDict, total=False):
    """How an encoder runs; none of these decides an embedding beyond rounding.

    batch_tokens: tokens in a batch, padding included. threads: of torch and FAISS. device: `auto`,
    `cpu` or `cuda[:N]`. few_texts: texts will come a few at a time (queries), so that nothing
    is prepared for many. cache: keep 4-bit forms of large models under `MOEE_INDEX_CACHE`
    (default true). notify: called with each choice once, with its reason. progress: (done, total)
    bytes while loading.
    """

    batch_tokens: int | None
    threads: int | None
    device: str
    few_texts: bool
    cache: bool
    notify: Notify | None
    progress: Progress | None


class LoadOptions(AskedOptions, RunOptions, total=False):
    """Options of `Encoder.load` and `for_spec`, finding the model aside."""


class Encoder:
    """Embeds texts with a Mixture-of-Experts model: HS and RW of one forward pass each.

    Make one with `Encoder.load`. Implements `TextEncoder`.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        running: RunningModel,
        tokenizer: Tokenizer,
        batch_tokens: int,
        token_weights: TokenWeights | None = None,
        index_defaults: IndexDefaults | None = None,
    ) -> None:
        self._spec = spec
        self.running = running
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens
        self._index_defaults = index_defaults or IndexDefaults()
        self.token_weights = token_weights
        self._prompt = parse_prompt(spec.prompt)
        self._query_prompt = parse_prompt(spec.query_prompt)

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        revision: str | None = None,
        offline: bool = False,
        **options: Unpack[LoadOptions],
    ) -> Encoder:
        """Load a model: the bundled `tiny` (None), a checkpoint directory, or a hub id.

        Options that are not given come from the checkpoint's `moee_index.json`, else from the
        defaults: prompt `prompteol`, pooling `last`, rw `auto`, 512 tokens. Pooling `idf` takes
        the checkpoint's table of token weights; where it has none, `with_token_weights` gives one.

        Raises ModelError where the model does not exist or is not a Mixture-of-Experts model, and
        MisuseError for an option that makes no sense.
        """
        return cls._of(
            find_checkpoint(model, revision=revision, offline=offline),
            **options,
        )

    @classmethod
    def _of(
        cls,
        checkpoint: Checkpoint,
        *,
        batch_tokens: int | None = None,
        threads: int | None = None,
        device: str = "auto",
        few_texts: bool = False,
        cache: bool = True,
        notify: Notify | None = None,
        progress: Progress | None = None,
        built: bool = False,
        **asked: Unpack[AskedOptions],
    ) -> Encoder:
        """Load a checkpoint that was found: RunOptions, and what `resolve_options` takes. built:
        the options are those of an index that is there."""
        tell = notify or ignore
        for flag, count in (("--batch-tokens", batch_tokens), ("--threads", threads)):
            check_count(flag, count)
        options = resolve_options(checkpoint, asked, built=built)
        index_defaults = IndexDefaults.of(checkpoint)
        bits = options.bits
        if checkpoint.quantization is not None and bits != 4:
            tell(
                f"{checkpoint.name} is a 4-bit checkpoint: its weights are dequantised to "
                f"{bits} bits"
            )
        if checkpoint.source is not None:
            tell(checkpoint.source.told(checkpoint.name, bits))
        tokenizer = Tokenizer(checkpoint, options.max_tokens)
        weights = token_weights_of(checkpoint, options.pooling)
        running = RunningModel(
            checkpoint,
            bits=bits,
            double_quant=options.double_quant,
            rw=options.rw,
            pooling=options.pooling,
            device=device,
            threads=threads,
            few_texts=few_texts,
            cache=Cache(tell) if cache else None,
            progress=progress,
            tell=tell,
        )
        spec = EncoderSpec(
            model=checkpoint.name,
            path=str(checkpoint.path.absolute()),  # for who opens an index from another directory
            revision=checkpoint.revision,
            fingerprint=checkpoint.fingerprint,
            **{**options.options(), "rw": running.rw},
            hs_dim=running.hs_dim,
            rw_dim=running.rw_dim,
            token_weights=weights.checksum if weights is not None else None,
        )
        budget, reason = _batch_tokens(batch_tokens, running)
        tell(
            f"model {spec.model}: device {running.device.value} ({running.device.reason}), compute "
            f"{str(running.compute.value).removeprefix('torch.')} ({running.compute.reason}), "
            f"{counted(running.threads, 'thread')}, batches of {counted(budget, 'token')} "
            f"({reason})"
        )
        if running.device.value.type == "cpu" and running.kernels.value == BITSANDBYTES:
            tell(
                "4-bit products by bitsandbytes, several times slower than by our own kernels: "
                f"{running.kernels.reason}"
            )
        return cls(spec, running, tokenizer, budget, weights, index_defaults)

    @classmethod
    def for_spec(
        cls,
        spec: EncoderSpec,
        *,
        model: str | Path | None = None,
        revision: str | None = None,
        offline: bool = False,
        **options: Unpack[LoadOptions],
    ) -> Encoder:
        """The encoder that an index was built with, from the index's own spec.

        Options given explicitly must agree with the spec. An index gives the encoder its own token
        weights, so those of the checkpoint are not compared. Raises MisuseError naming option and
        both values where one does not, and FingerprintMismatchError where the model found, here
        or under `model`, is another one; both before any weight is read.
        """
        requested = {name: options.pop(name, None) for name in EncoderOptions.names()}  # type: ignore[misc]
        for name in ("prompt", "query_prompt"):
            requested[name] = parse_prompt(requested[name]).name if requested[name] else None
        requested["rw"] = None if requested["rw"] == "auto" else requested["rw"]
        for field, value in requested.items():
            built = getattr(spec, field)
            if value is not None and value != built:
                raise MisuseError(
                    f"--{field.replace('_', '-')} {value} contradicts the index, which was built "
                    f"with {built}; leave the option out, or build another index"
                )
        checkpoint = _checkpoint_of(spec, model, revision, offline)
        if checkpoint.fingerprint != spec.fingerprint:
            raise FingerprintMismatchError(
                f"the index was built with model {spec.model} (fingerprint "
                f"{spec.fingerprint[:12]}), but {checkpoint.path} is another one (fingerprint "
                f"{checkpoint.fingerprint[:12]}); give the right one with --model, or build again"
            )
        return cls._of(
            checkpoint,
            built=True,
            **{**spec.options(), **({} if spec.bits == 4 else {"double_quant": None})},
            **options,
        )

    def as_shipped(self) -> bool:
        """Whether all options are those that the checkpoint has where none are given."""
        checkpoint, spec = self.running.checkpoint, self._spec
        own = resolve_options(checkpoint, {}).options()
        own["rw"] = rw_kind(own["rw"], checkpoint, self.running.plan)
        return own == spec.options() and spec.pooling != IDF

    def __reduce__(self) -> NoReturn:
        raise MisuseError(
            "an encoder cannot be pickled or copied, for it holds a model; load it where it is "
            "needed with Encoder.load"
        )

    @property
    def spec(self) -> EncoderSpec:
        """Everything that decides an embedding."""
        return self._spec

    @property
    def rw_widths(self) -> tuple[int, ...]:
        """Experts of each MoE layer, in the order of RW."""
        return self.running.rw_widths

    @property
    def batch_tokens(self) -> int:
        """Token budget of a batch, padding included."""
        return self._batch_tokens

    @property
    def lexical(self) -> float:
        """The default weight of words that the checkpoint has for its indexes; it decides no
        embedding."""
        return self._index_defaults.lexical

    @property
    def language(self) -> str | None:
        """The language whose words its indexes stem by default; None where the checkpoint says
        nothing."""
        return self._index_defaults.language

    @property
    def hardware(self) -> str:
        """What computes, and in which type: decides no embedding beyond rounding."""
        compute = str(self.running.compute.value).removeprefix("torch.")
        return f"{self.running.device.value.type} {compute}"

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of the model's weights by kind."""
        return self.running.bytes()

    def elsewhere(self) -> Recipe:
        """How another process loads this encoder, its token weights aside."""
        return Recipe(
            built_with=self._spec,
            options={
                "model": self._spec.path,
                "batch_tokens": self._batch_tokens,
                "device": self.running.device.value.type,
            },
        )

    def with_batch_tokens(self, batch_tokens: int) -> Encoder:
        """The same encoder with another budget (a resumed build keeps its first one)."""
        return self._but(batch_tokens=batch_tokens)

    def with_token_weights(self, weights: TokenWeights) -> Encoder:
        """The same model, pooling by other token weights. Raises MisuseError unless its pooling is
        `idf`."""
        if self._spec.pooling != IDF:
            raise MisuseError(
                f"pooling {self._spec.pooling} takes no token weights; load the model with "
                f"--pooling {IDF}"
            )
        spec = replace(self._spec, token_weights=weights.checksum)
        return self._but(spec=spec, token_weights=weights)

    def _but(
        self,
        *,
        spec: EncoderSpec | None = None,
        batch_tokens: int | None = None,
        token_weights: TokenWeights | None = None,
    ) -> Encoder:
        """The same model and tokenizer, and these instead of its own."""
        return Encoder(
            spec or self._spec,
            self.running,
            self._tokenizer,
            batch_tokens or self._batch_tokens,
            token_weights or self.token_weights,
            self._index_defaults,
        )

    def with_prompt(self, prompt: str) -> Encoder:
        """The same model under another prompt, for texts and queries alike.

        Raises MisuseError for an unknown prompt.
        """
        name = parse_prompt(prompt).name
        return self._but(spec=replace(self._spec, prompt=name, query_prompt=name))

    def weighed(self, text: TokenizedText) -> TokenizedText:
        """A text with the shares of its tokens, where the pooling is by token weights.

        Raises MisuseError where there is no table of them.
        """
        if self._spec.pooling != IDF:
            return text
        if self.token_weights is None:
            raise without_token_weights(self._spec.model)
        start, end = text.own
        return replace(text, shares=self.token_weights.of(text.ids[start:end]))

    def count_tokens(self, texts: Sequence[str], counts: TokenCounts) -> None:
        """Count texts by the tokens over which they are pooled, without the template's."""
        counts.reach(self._tokenizer.vocabulary)
        for each in self._tokenizer.tokenize(check_texts(texts), self._prompt):
            start, end = each.text.own
            counts.add(each.text.ids[start:end])

    def plan(self, texts: Sequence[str], *, query: bool = False) -> Plan:
        """Tokenise one window of texts and plan its batches; see `EncodingPlan`.

        Raises MisuseError for what is no text.
        """
        return self._planned(check_texts(texts), query)

    def tokenize(self, texts: Sequence[str], *, query: bool = False) -> list[Tokenized]:
        """Texts as the model sees them, for who makes batches of many callers' texts himself and
        gives these to `running.embed`. Raises MisuseError for what is no text."""
        tokenized = self._tokenized(check_texts(texts), query)
        return [replace(each, text=self.weighed(each.text)) for each in tokenized]

    def _tokenized(self, texts: Sequence[str], query: bool) -> list[Tokenized]:
        return self._tokenizer.tokenize(texts, self._query_prompt if query else self._prompt)

    def _planned(self, texts: Sequence[str], query: bool) -> Plan:
        """As `plan`, of texts that are known to be some."""
        tokenized = self._tokenized(texts, query)
        # Under mean pooling equal ids with different own tokens would give different embeddings.
        groups = group_equal([(each.text.ids, each.text.own) for each in tokenized])
        lengths = [len(tokenized[group[0]].text.ids) for group in groups]
        batches = plan_batches(lengths, self._batch_tokens)
        grouped = [[groups[item] for item in batch] for batch in batches]
        return Plan(
            batches=[[position for group in batch for position in group] for batch in grouped],
            tokens=sum(lengths),
            truncated=[each.truncated for each in tokenized],
            _encoder=self,
            _groups=grouped,
            _texts=tokenized,
        )

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        """Divide the texts of (title, text) pairs into passages; see `chunking.divide`.

        Of a document longer than chunking.SECTION characters only so many are looked at together.
        Raises MisuseError where a passage of `chunking.size` tokens and the prompt's own tokens do
        not fit max_tokens.
        """
        template, most = self._tokenizer.template_tokens(self._prompt), self._tokenizer.max_tokens
        if chunking.size + template > most:
            smaller = (
                f"--chunk of at most {most - template} or a "
                if most - template >= LEAST_SIZE
                else ""
            )
            raise MisuseError(
                f"--chunk {chunking}: passages of {chunking.size} tokens and the prompt's "
                f"{template} do not fit --max-tokens {most}; take a {smaller}"
                f"--max-tokens of at least {chunking.size + template}"
            )
        contents = [joined(title, text) for title, text in documents]
        # As it will be embedded: the clean-up swaps characters one for one, and its closing full
        # stop, if any, is counted with the template.
        cleaned = [self._prompt.apply(content)[1][: len(content)] for content in contents]
        short = [content for content in cleaned if len(content) <= SECTION]
        offsets = iter(self._tokenizer.offsets(short))
        return [
            divide(title, text, next(offsets), chunking)
            if len(content) <= SECTION
            else divide_long(
                title, text, partial(self._tokenizer.offsets_within, content), chunking
            )
            for (title, text), content in zip(documents, cleaned, strict=True)
        ]

    def encode(
        self,
        texts: Sequence[str],
        *,
        query: bool = False,
        progress: Progress | None = None,
    ) -> Embeddings:
        """Raw HS float32 [n, d] and RW float32 [n, layers * experts] of texts, in their order.

        An empty text is embedded as the bare template. `query=True` uses the query prompt.
        Raises MisuseError for what is no text, and for one text where several are meant.
        """
        texts = check_texts(texts)
        hs = np.empty((len(texts), self._spec.hs_dim), dtype=np.float32)
        rw = np.empty((len(texts), self._spec.rw_dim), dtype=np.float32)
        done = 0
        for start, plan in self._plans(texts, query):
            for number, positions in enumerate(plan.batches):
                batch = plan.encode(number)
                rows = start + np.asarray(positions, dtype=np.int64)
                hs[rows], rw[rows] = batch.hs, batch.rw
                done += len(rows)
                if progress is not None:
                    progress("embedding", done, len(texts))
        return Embeddings(hs, rw)

    def _plans(self, texts: Sequence[str], query: bool) -> Iterator[tuple[int, Plan]]:
        """(first position, plan) of each window; while one is embedded the next is tokenised."""
        size = window_of(self._batch_tokens)
        starts = range(0, len(texts), size)
        with ThreadPoolExecutor(1) as pool:
            ahead = deque(
                pool.submit(self._planned, texts[start : start + size], query)
                for start in starts[:1]
            )
            for number, start in enumerate(starts):
                plan = ahead.popleft().result()
                for later in starts[number + 1 : number + 2]:
                    window = texts[later : later + size]
                    ahead.append(pool.submit(self._planned, window, query))
                yield start, plan


def _batch_tokens(requested: int | None, running: RunningModel) -> tuple[int, str]:
    """Tokens in a batch, and the reason."""
    if requested is not None:
        return requested, "as requested"
    full_rate = "large enough for the kernels' full rate"
    if running.device.value.type == "cpu":
        return CPU_BATCH_TOKENS, full_rate
    fitting = running.fitting_tokens(CUDA_BATCH_TOKENS)
    if fitting < CUDA_BATCH_TOKENS:
        return fitting, f"what should fit the memory of {running.device.value}"
    return CUDA_BATCH_TOKENS, full_rate


def _checkpoint_of(
    spec: EncoderSpec, model: str | Path | None, revision: str | None, offline: bool
) -> Checkpoint:
    """Where the model of an index is now: as given, else where it was, else by its name."""
    if model is not None:
        return find_checkpoint(model, revision=revision, offline=offline)
    if revision is not None and revision != spec.revision:
        raise MisuseError(
            f"--revision {revision} contradicts the index, which was built with {spec.revision}"
        )
    if spec.model == BUNDLED:
        return find_checkpoint(BUNDLED)
    if Path(spec.path).is_dir():
        return open_checkpoint(Path(spec.path), name=spec.model, revision=spec.revision)
    if spec.revision is None:
        raise ModelError(
            f"the index was built with the model at {spec.path}, which is no longer there; give "
            "its new place with --model"
        )
    return find_checkpoint(spec.model, revision=spec.revision, offline=offline)
