"""A loaded model: token ids in, HS and RW out, from one forward pass of the base model.

There is no language-model head and no list of all layers' states: HS is read from the last hidden
state after the final norm, RW by hooks on the routers that keep only what the pooling needs (paper,
section 3; camera-ready 4.1: last token for both).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moee_index.backends import limit_kernel_caches, set_threads
from moee_index.errors import ModelError, counted, lacks_memory
from moee_index.model.arch.build import build_empty, rw_kind
from moee_index.model.arch.config import config_errors
from moee_index.model.arch.four_bit import bytes_by_kind, told_in_16_bits
from moee_index.model.arch.routing import Router, raw_scores
from moee_index.model.arch.tested import is_tested
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.device import free_memory
from moee_index.model.load.cache import Cache
from moee_index.model.load.load import cast, load_model
from moee_index.model.load.memory import DeviceMemoryError, on_card
from moee_index.model.precision import Choice, Storage
from moee_index.model.run.blocks import ready_for_card, run_in_blocks
from moee_index.model.run.footprint import fitting_tokens
from moee_index.model.run.hardware import (
    choose_compute,
    choose_device,
    choose_kernels,
    choose_threads,
)
from moee_index.types import Embeddings, FloatArray, Notify, Progress, ignore

if TYPE_CHECKING:
    from moee_index.model.run.prefix import FixedBeginning


@dataclass(frozen=True)
class TokenizedText:
    """One text as the model sees it.

    ids: token ids with special tokens and template. own: [start, end) of the document's own
    tokens within ids, over which `mean` pools. shares: of these tokens in the mean, where they are
    not all equal; they add up to 1.
    """

    ids: tuple[int, ...]
    own: tuple[int, int]
    shares: FloatArray | None = field(default=None, compare=False)

    def without(self, count: int) -> TokenizedText:
        """The text without its first `count` tokens."""
        own = self.own[0] - count, self.own[1] - count
        return TokenizedText(self.ids[count:], own, self.shares)


Piece = Sequence[TokenizedText]

# Tokens of a piece of a batch: enough for the products' full rate, few enough for several pieces to
# a thread.
PIECE_TOKENS = 4096

# A text of so few tokens is not what memory is lacking for.
_SHORT = 64

# A prompt's beginning is shared only if that saves at least this many tokens in a batch.
_WORTH_SHARING = 256


def _shared_tokens(texts: Sequence[TokenizedText]) -> int:
    """The number of prompt tokens with which all texts begin, at most all but one of a text."""
    limit = min(min(text.own[0], len(text.ids) - 1) for text in texts)
    first = texts[0].ids
    for count in range(limit):
        if any(text.ids[count] != first[count] for text in texts):
            return count
    return limit


class NotFiniteError(ModelError):
    """A pass gave values that are not finite."""


class _Pass(threading.local):
    """What the hooks of one thread's pass read and write. weights: of the pooling, [batch, length].
    pooled: the positions [batch * length] with such a weight. routing: what was pooled of each
    layer, [batch, experts]."""

    weights = torch.empty(0)
    pooled = torch.empty(0, dtype=torch.int64)

    def __init__(self) -> None:
        self.routing: list[torch.Tensor] = []


class _Workers:
    """Threads that compute pieces of batches, each alone; started when they are first needed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, function: Callable[[Piece], Embeddings], pieces: Sequence[Piece]
    ) -> Iterable[Embeddings]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self._count, "moee-index", initializer=torch.set_num_threads, initargs=(1,)
            )
        return self._pool.map(function, pieces)


def _pieces(texts: Piece) -> list[Piece]:
    """A batch in pieces of consecutive texts, of some PIECE_TOKENS tokens each."""
    ends = np.cumsum([len(text.ids) for text in texts])
    count = max(1, int(ends[-1]) // PIECE_TOKENS)
    bounds = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count) + 1
    edges = sorted({0, *(int(bound) for bound in bounds), len(texts)})
    return [texts[start:end] for start, end in itertools.pairwise(edges)]


def _joined(parts: Iterable[Embeddings]) -> Embeddings:
    parts = list(parts)
    return Embeddings(
        np.concatenate([part.hs for part in parts]), np.concatenate([part.rw for part in parts])
    )


class RunningModel:
    """A base model with hooks on its routers, ready for batches of token ids.

    shares_beginnings: whether a prompt's fixed beginning may be computed once for many texts; set
    it to False if hooks of yours must see every token. divides_batches: whether a large batch may
    pass in pieces, side by side in several threads; set it to False if hooks must see it whole.
    rw_widths: experts of each MoE layer, in the order of RW.
    Calls from several threads do not mix.
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
        limit_kernel_caches()
        chosen = choose_threads(threads)
        if chosen.reason:
            self._tell(chosen.reason)
        self.threads = set_threads(chosen.value)
        self._workers = _Workers(self.threads)
        self._alone = threading.Lock()
        self._shared: FixedBeginning | None = None
        self.shares_beginnings = not few_texts
        chosen = choose_device(device, bits)
        load = partial(self._load, bits, double_quant, rw, cache, progress)
        try:
            load(chosen)
        except DeviceMemoryError as error:
            if device != "auto":
                raise
            chosen = Choice(torch.device("cpu"), error.reason)
        if chosen != self.device:  # what the card held is gone by now
            torch.cuda.empty_cache()
            load(chosen)
        if (left := told_in_16_bits(self._loaded.left)) is not None:
            self._tell(f"{checkpoint.name}: {left}")
        if not is_tested(self.model):
            kind = checkpoint.config.get("model_type")
            self._tell(
                f"{checkpoint.name}: models of type {kind!r} are newer than this moee-index and "
                "were not tested with it"
            )

    def _load(
        self,
        bits: int,
        double_quant: bool,
        rw: str,
        cache: Cache | None,
        progress: Progress | None,
        device: Choice,
    ) -> None:
        """Load the model onto a device and ready it. Raises DeviceMemoryError where a card cannot
        hold it."""
        self.device = device
        self.compute = choose_compute(bits, device.value)
        self.kernels = choose_kernels(bits, device.value)
        self._storage = Storage(bits, double_quant, self.compute.value, device.value)
        self.plan = build_empty(self.checkpoint)
        self.rw = rw_kind(rw, self.checkpoint, self.plan)
        self._loaded = load_model(
            self.plan,
            self.checkpoint,
            self._storage,
            cache=cache,
            progress=progress,
            tell=self._tell,
        )
        self.model = self.plan.model
        if device.value.type == "cpu":
            run_in_blocks(self.plan, self._loaded.real_tokens)
        else:
            ready_for_card(self.plan, self._loaded.real_tokens)
        self._pass = _Pass()
        self.divides_batches = device.value.type == "cpu"
        for router in self.plan.routers:
            self._listen(router)
        # One tiny pass shows both widths, whatever a config calls its sizes.
        self.rw_widths: tuple[int, ...] = ()
        with config_errors(self.checkpoint), on_card(self.checkpoint.name, self._storage):
            sample = self.embed([TokenizedText((0,), (0, 1))])
        self.hs_dim, self.rw_dim = sample.hs.shape[1], sample.rw.shape[1]

    def fitting_tokens(self, most: int) -> int:
        """Tokens of a batch, at most so many, that should fit the memory of a card."""
        free = free_memory(self.device.value)
        return fitting_tokens(self.plan, self.compute.value, free, most)

    def bytes(self) -> dict[str, int]:
        """Bytes of weights in memory by kind."""
        return bytes_by_kind(self.model)

    def embed(self, texts: Sequence[TokenizedText]) -> Embeddings:
        """HS [n, d] and RW [n, layers * experts] of one batch, float32, in the order of the texts.

        If memory runs out, this batch and all later ones are halved until they fit. If float16
        overflows, the batch and all later ones are computed in float32. Raises ModelError if a
        single text does not fit or a value is not finite.
        """
        if self.compute.value != torch.float16:
            return self._embed_halving(texts, self._beginning(texts))
        with self._alone:  # no other pass may be under way when the model is cast
            try:
                return self._embed_halving(texts, self._beginning(texts))
            except NotFiniteError:
                if self.compute.value == torch.float16:
                    self._widen()
            return self._embed_halving(texts, self._beginning(texts))

    def _widen(self) -> None:
        """Compute in float32 from now on. Raises NotFiniteError where that takes twice the
        memory."""
        if self._storage.bits != 4:
            raise NotFiniteError(
                f"{self.checkpoint.name} gives values beyond float16's 65504, and "
                f"{self.device.value} has no bfloat16; take --bits 4, which then computes in "
                "float32, or --device cpu"
            )
        self.compute = Choice(torch.float32, "float16 overflows in this model")
        self._storage = replace(self._storage, compute=torch.float32)
        self._shared = None
        with torch.no_grad():
            cast(self.model, self._storage)
        self._tell(
            f"{self.checkpoint.name} gives values beyond float16's 65504: it computes in float32 "
            "from now on"
        )

    def _embed_pieces(
        self, texts: Sequence[TokenizedText], beginning: FixedBeginning | None
    ) -> Embeddings:
        """A large batch in pieces, each computed by one thread, whichever is free.

        Threads that share every product wait for the slowest at each; on a busy machine that is
        most of the time. Where pieces end depends on the texts alone, so that the number of threads
        changes no byte.
        """
        pieces = _pieces(texts) if self.divides_batches else [texts]
        if len(pieces) == 1:
            return self._embed(texts, beginning)
        return _joined(self._workers.map(lambda piece: self._embed(piece, beginning), pieces))

    def _embed_halving(
        self, texts: Sequence[TokenizedText], beginning: FixedBeginning | None
    ) -> Embeddings:
        size = len(texts) * max(len(text.ids) for text in texts)
        if self._most is None or size <= self._most or len(texts) == 1:
            try:
                return self._embed_pieces(texts, beginning)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                if len(texts) == 1:
                    raise self._too_long(size) from error
                self._most = size // 2
                self._tell(
                    f"a batch of {size} tokens does not fit in the memory of {self.device.value}: "
                    f"batches are halved to {self._most}"
                )
            torch.cuda.empty_cache()
        middle = len(texts) // 2
        return _joined(
            self._embed_halving(half, beginning) for half in (texts[:middle], texts[middle:])
        )

    def _too_long(self, tokens: int) -> ModelError:
        """The error for a text that does not fit the memory by itself."""
        device = self.device.value
        advice = "lower --max-tokens" if tokens > _SHORT else "free memory there"
        if device.type != "cpu":
            advice += ", or take --device cpu"
        return ModelError(
            f"a text of {counted(tokens, 'token')} does not fit in the memory of {device}; {advice}"
        )

    def _embed(
        self, texts: Sequence[TokenizedText], beginning: FixedBeginning | None
    ) -> Embeddings:
        """One batch in one pass.

        Right padding, no attention mask: attention is causal, so a real token never sees padding,
        and padding never reaches an expert. In the last layer only tokens that are pooled do.
        """
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
            start, end = (lengths[row] - 1, lengths[row]) if self.pooling == "last" else text.own
            weights[row, start:end] = 1.0 / (end - start) if text.shares is None else text.shares
        device = self.device.value
        self._pass.weights = torch.from_numpy(weights).to(device)
        self._pass.pooled = torch.from_numpy(np.flatnonzero(weights)).to(device)
        self._pass.routing = []
        self._loaded.real_tokens.rows = (
            None if real.all() else torch.from_numpy(np.flatnonzero(real)).to(device)
        )
        self._loaded.real_tokens.lengths = None if real.all() else lengths
        self._loaded.real_tokens.count = self._loaded.last_layer_tokens.count = real.size
        self._loaded.last_layer_tokens.rows = self._pass.pooled
        with torch.inference_mode():
            states = self.model(
                input_ids=torch.from_numpy(ids).to(device),
                use_cache=False,
                **({} if beginning is None else {beginning.argument: beginning}),
            ).last_hidden_state
            hs = self._pool(states)
            rw = torch.cat(self._pass.routing, dim=1)
        self.rw_widths = tuple(int(values.shape[1]) for values in self._pass.routing)
        self._pass.routing = []
        embeddings = Embeddings(hs.cpu().numpy(), rw.cpu().numpy())
        for name, values in (("HS", embeddings.hs), ("RW", embeddings.rw)):
            if not np.isfinite(values).all():
                raise NotFiniteError(
                    f"{self.checkpoint.name} gave a value that is not finite in {name} (compute "
                    f"dtype {self.compute.value}); take --bits 32 or check the checkpoint"
                )
        return embeddings

    def _beginning(self, texts: Sequence[TokenizedText]) -> FixedBeginning | None:
        """Keys and values of the prompt's fixed beginning, if there are enough texts to gain from
        it. Depends on the texts alone, so that a batch always gives the same bytes."""
        count = _shared_tokens(texts)
        if not self.shares_beginnings or count < 2 or count * len(texts) < _WORTH_SHARING:
            return None
        tokens = texts[0].ids[:count]
        shared = self._shared  # another thread may replace it
        if shared is None or shared.tokens != tokens:
            from moee_index.model.run.prefix import compute

            self._pass.weights = torch.zeros((1, count), device=self.device.value)
            self._pass.pooled = torch.empty(0, dtype=torch.int64, device=self.device.value)
            self._loaded.real_tokens.rows = self._loaded.real_tokens.lengths = None
            self._loaded.last_layer_tokens.rows = None
            shared = self._shared = compute(self.model, tokens, self.device.value)
            self._pass.routing = []
            self.shares_beginnings = shared is not None
        return shared

    def _pool(self, values: torch.Tensor) -> torch.Tensor:
        """Weighted sum over tokens, [batch, length, n] -> float32 [batch, n]."""
        if self.pooling == "last":
            return values.flatten(0, 1).index_select(0, self._pass.pooled).float()
        return torch.bmm(self._pass.weights[:, None, :], values.float())[:, 0]

    def _listen(self, router: Router, checked: bool = False) -> None:
        """Keep what the pooling needs of a router's scores. checked: they are not probabilities."""

        def keep(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal checked
            logits = output[router.index] if isinstance(output, (tuple, list)) else output
            batch, length = self._pass.weights.shape
            if logits.numel() != batch * length * logits.shape[-1]:
                raise ModelError(
                    f"{self.checkpoint.name}: {type(module).__name__} gives scores of shape "
                    f"{list(logits.shape)} for {batch * length} tokens, not one row a token, so "
                    "tokens have no RW; take another model"
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
            self._pass.routing.append(self._pool(logits))

        hook = router.module.register_forward_hook(keep)
