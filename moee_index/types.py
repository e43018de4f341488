"""What the packages hand to each other: documents and queries, passages, Embeddings, hits, and the
protocols through which a lower package uses a higher one.

No model, no disk, no FAISS, and numpy for its types alone. `Encoder` (encode/encoder.py) implements
`TextEncoder`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
)

from moee_index.errors import MisuseError, counted

if TYPE_CHECKING:  # `--help` needs these types, and no numpy
    import numpy as np
    import numpy.typing as npt

    from moee_index.token_weights import TokenCounts, TokenWeights

FloatArray: TypeAlias = "npt.NDArray[np.float32]"

T = TypeVar("T")

IDF = "idf"
"""The pooling that weighs tokens by how rare they are (token_weights.py)."""

Notify = Callable[[str], None]
"""Called with a choice or a note, as text."""

Progress = Callable[[str, int, int | None], None]
"""Called with a stage's name, how much of it is done, and the total (None: unknown)."""

Span = tuple[int, int]
"""Characters [start, end) of a document's text."""

LEAST_SIZE = 8

Part = Literal["hs", "rw"]
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


def ignore(*_: object) -> None:
    """A `Notify` or a `Progress` that does nothing."""


# Characters of documents in a window, some 16,000 a document, beyond which it is full: a window is
# held in memory, and at most four are on their way.
WINDOW_CHARACTERS = 2**24


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of `size`, the last one shorter."""
    remaining = iter(items)
    while block := list(islice(remaining, size)):
        yield block


def one(_item: object) -> int:
    """The measure that counts items."""
    return 1


def filled(items: Iterable[T], *bounds: tuple[Callable[[T], int], int]) -> Iterator[list[T]]:
    """Items in lists, each full as soon as the sum of one measure reaches its bound. bounds: a
    measure of an item, and the sum that fills a list."""
    block: list[T] = []
    sums = [0] * len(bounds)
    for item in items:
        block.append(item)
        sums = [held + measure(item) for held, (measure, _) in zip(sums, bounds, strict=True)]
        if any(held >= bound for held, (_, bound) in zip(sums, bounds, strict=True)):
            yield block
            block, sums = [], [0] * len(bounds)
    if block:
        yield block


def joined(title: str, text: str) -> str:
    """What is embedded of a passage, as of a whole document: title and text joined by one blank."""
    return f"{title} {text}" if title and text else title or text


@dataclass(frozen=True)
class Document:
    """One text of a corpus.

    metadata: values that JSON can hold. The title is also there, as `title`: hits carry text and
    metadata, and a title must not be lost on the way. The two are kept equal: a `title` given
    only in metadata becomes the title.
    made_id: whether the id is made of a file's name and a line for want of one.
    source: `file:line`, for messages; empty for documents made in Python.
    untyped: its metadata come from a format without types (CSV), so a filter that compares with a
    number reads texts that spell one as numbers.

    Raises MisuseError for fields of other types.
    """

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    source: str = field(default="", compare=False)
    made_id: bool = field(default=False, compare=False)
    untyped: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("id", "text", "title", "source"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise MisuseError(
                    f"a document's {name} is of type {type(value).__name__}, not text"
                )
        if not isinstance(self.metadata, dict):
            raise MisuseError(
                f"a document's metadata is of type {type(self.metadata).__name__}, not a dict"
            )
        known = self.metadata.get("title")
        if self.title:
            if known != self.title:
                object.__setattr__(self, "metadata", {**self.metadata, "title": self.title})
        elif isinstance(known, str):
            object.__setattr__(self, "title", known)

    @property
    def content(self) -> str:
        """What is embedded: title and text joined by one blank; the text alone without a title."""
        return self.content_of((0, len(self.text)))

    def content_of(self, span: tuple[int, int]) -> str:
        """What is embedded for a passage, which is some characters of the text: as `content`."""
        return joined(self.title, self.text[slice(*span)])


@dataclass(frozen=True)
class Query:
    """One query; `id` is its line number where the file gives none. source: `file:line`."""

    id: str
    text: str
    source: str = field(default="", compare=False)


@dataclass(frozen=True)
class Chunking:
    """How texts are divided into passages; what `--chunk` says.

    size: most tokens of a passage, its title's included and the prompt's not; at least 8.
    overlap: most tokens repeated from the end of the passage before; at most half of the size.

    Raises MisuseError for numbers outside of these bounds.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.size < LEAST_SIZE:
            raise MisuseError(f"--chunk {self}: a passage needs at least {LEAST_SIZE} tokens")
        if not 0 <= self.overlap <= self.size // 2:
            raise MisuseError(
                f"--chunk {self}: the overlap may be 0 to {counted(self.size // 2, 'token')}, "
                "half of the size"
            )

    @classmethod
    def parse(cls, text: str) -> Chunking:
        """`200`, or with an overlap `200:40`. Raises MisuseError for anything else."""
        match = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", text)
        if match is None:
            raise MisuseError(
                f"--chunk {text!r} is neither N nor N:OVERLAP in tokens; write 200 or 200:40"
            )
        return cls(int(match[1]), int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.size}:{self.overlap}" if self.overlap else str(self.size)


@dataclass(frozen=True)
class Pair(Generic[T_co]):
    """The same kind of value for both parts, HS and RW."""

    hs: T_co
    rw: T_co

    def __getitem__(self, part: Part) -> T_co:
        """The value of a part by its name. Raises KeyError."""
        if part == "hs":
            return self.hs
        if part == "rw":
            return self.rw
        raise KeyError(part)

    def __iter__(self) -> Iterator[tuple[Part, T_co]]:
        """(part, value) of HS, then of RW."""
        yield "hs", self.hs
        yield "rw", self.rw

    def map(self, function: Callable[[T_co], U]) -> Pair[U]:
        """The function's value for each part; `PARTS.map` passes the part's name."""
        return Pair(function(self.hs), function(self.rw))

    def zip(self, other: Pair[U]) -> Pair[tuple[T_co, U]]:
        return Pair((self.hs, other.hs), (self.rw, other.rw))


PARTS: Pair[Part] = Pair("hs", "rw")
"""The parts' names."""


def columns(values: Any) -> Pair[Any]:
    """HS and RW of an array [n, 2], as views [n]."""
    return Pair(values[:, 0], values[:, 1])


@dataclass(frozen=True)
class Embeddings(Pair["FloatArray"]):
    """HS and RW of n texts, raw: neither standardised nor normalised (paper, section 3).

    hs: float32 [n, d], last layer's hidden state after the final norm.
    rw: float32 [n, layers * experts], router outputs of the MoE layers in order.
    """

    def __len__(self) -> int:
        return len(self.hs)


class AskedOptions(TypedDict, total=False):
    """What may be requested of an encoder, for type checking: the fields of EncoderOptions, where
    None is the checkpoint's choice, else the default."""

    bits: int | None
    double_quant: bool | None
    prompt: str | None
    query_prompt: str | None
    rw: str | None
    pooling: str | None
    max_tokens: int | None


@dataclass(frozen=True)
class EncoderOptions:
    """The options that decide an embedding, settled.

    The command line, `moee_index.json`, the manifest, `Encoder.load` and `for_spec`, and the
    bench's keys follow from these fields. Metadata: help; default; choices or least value;
    metavar; own: whether a checkpoint may choose a value of its own in `moee_index.json`.
    Options that change no vector beyond rounding are `RunOptions` (encode/encoder.py).
    """

    bits: int = field(
        metadata={
            "help": "Bits of the weights. [default: 4, or the index's]",
            "default": 4,
            "choices": (4, 16, 32),
        }
    )
    double_quant: bool = field(
        metadata={"help": "Quantise the 4-bit statistics too. [default: on]", "default": True}
    )
    prompt: str = field(
        metadata={
            "help": "Prompt around a text: none, prompteol, style, sentiment, tone, intent, "
            "complexity, subjectivity, language-style, grammar-structure, or a template holding "
            "{text}. [default: the model's own, else prompteol]",
            "default": "prompteol",
            "metavar": "P",
            "own": True,
        }
    )
    query_prompt: str = field(
        metadata={
            "help": "Prompt for queries alone. [default: as --prompt]",
            "default": None,
            "metavar": "P",
            "own": True,
        }
    )
    rw: str = field(
        metadata={
            "help": "Kind of routing weights. [default: auto]",
            "default": "auto",
            "choices": ("auto", "softmax", "sigmoid", "logits"),
            "own": True,
        }
    )
    pooling: str = field(
        metadata={
            "help": "Last token, mean over the text's own tokens, or idf: a mean in which rare "
            "tokens weigh more. [default: the model's own, else last]",
            "default": "last",
            "choices": ("last", "mean", IDF),
            "own": True,
        }
    )
    max_tokens: int = field(
        metadata={
            "help": "Longest sequence, template included. [default: 512]",
            "default": 512,
            "least": 1,
            "metavar": "N",
            "own": True,
        }
    )

    @classmethod
    def names(cls, *leading: str, without: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Names of all options in order, some of them first and some left out."""
        names = (option.name for option in fields(EncoderOptions))
        return tuple(name for name in dict.fromkeys((*leading, *names)) if name not in without)

    def options(self, *leading: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """The options alone, by name, of a type that has more fields."""
        return {name: getattr(self, name) for name in self.names(*leading, without=without)}


@dataclass(frozen=True)
class FoundModel:
    """Which model it is and where it was found."""

    model: str
    path: str
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class EncoderSpec(EncoderOptions, FoundModel):
    """Everything that decides an embedding; it is stored in an index and compared by name.

    Two specs with equal `identity()` give the same vectors up to rounding. `model` and `path`
    only say where the model was found: another path with the same fingerprint is the same model.
    token_weights: checksum of the table that pooling `idf` weighs tokens by; None where there is
    none, or none yet.
    """

    hs_dim: int
    rw_dim: int
    token_weights: str | None = None

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> EncoderSpec:
        """A spec as an index keeps it; an option that is newer than the index has its default.

        Raises TypeError for a field that is missing or unknown.
        """
        defaults = {option.name: option.metadata["default"] for option in fields(EncoderOptions)}
        return cls(**{**defaults, **stored})

    def stored(self) -> dict[str, Any]:
        """The fields as an index keeps them: what an earlier version did not know, only where it
        says something."""
        stored = asdict(self)
        if self.token_weights is None:
            del stored["token_weights"]
        return stored

    @property
    def dims(self) -> Pair[int]:
        return Pair(self.hs_dim, self.rw_dim)

    @property
    def lacks_token_weights(self) -> bool:
        """Whether nothing can be embedded before a table of token weights is given."""
        return self.pooling == IDF and self.token_weights is None

    def identity(self) -> dict[str, Any]:
        """The fields that must agree between an index and the encoder that queries it."""
        fields = asdict(self)
        for where in ("model", "path", "revision"):
            del fields[where]
        return fields


class EncodingPlan(Protocol):
    """The batches of one window of texts, planned from the texts and their order alone.

    Planning twice with the same encoder options and texts gives the same batches, so an
    interrupted build that plans again embeds the very same batches to the very same bytes.
    """

    @property
    def batches(self) -> Sequence[Sequence[int]]:
        """For each batch the positions (into the planned texts) that it fills, each exactly once
        over all batches; texts with equal token sequences share a batch and are computed once."""

    @property
    def tokens(self) -> int:
        """Real tokens that will be computed (duplicates counted once, padding not)."""

    @property
    def truncated(self) -> Sequence[bool]:
        """For each planned text, whether its end was cut to fit max_tokens."""

    def encode(self, batch: int) -> Embeddings:
        """Embed one batch; row i belongs to position `batches[batch][i]`."""


class TextEncoder(Protocol):
    """What index/, rerank and the bench need of an encoder."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_tokens(self) -> int:
        """Token budget of a batch; part of the plan, so a resumed build keeps the first one's."""

    def with_batch_tokens(self, batch_tokens: int) -> TextEncoder:
        """The same encoder, sharing its model, that plans with another token budget."""

    @property
    def token_weights(self) -> TokenWeights | None:
        """What tokens weigh under pooling `idf`; None under another, or where there is no table."""

    def with_token_weights(self, weights: TokenWeights) -> TextEncoder:
        """The same encoder, sharing its model, that pools by other token weights."""

    def count_tokens(self, texts: Sequence[str], counts: TokenCounts) -> None:
        """Count texts by the tokens over which they are pooled."""

    def plan(self, texts: Sequence[str], *, query: bool = False) -> EncodingPlan:
        """Tokenise one window of texts and plan its batches."""

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        """Embed texts, in their order. `query=True` uses the query prompt."""

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Chunking
    ) -> list[list[Span]]:
        """Spans of each document's text, at least one each, from (title, text) pairs: what is
        embedded of a passage is the title and its span joined by one blank.

        Raises MisuseError where passages of that size do not fit max_tokens.
        """


@dataclass(frozen=True)
class Hit:
    """One document of an answer.

    rank: from 1. score: fused by the method asked for. hs, rw: sim_HS and sim_RW, cosines after
    standardising, in [-1, 1]. text: the document's text, of a document that was split that of its
    best passage; its title is in metadata. passage: which one, `<id>#<n>`; None where nothing was
    split.

    Where words count: lexical: BM25 over the largest that any document has for the query, in
    [0, 1]; bm25: itself; words: which words of the query matched. Else these are None. Where words
    alone count hs and rw are NaN, for no vector was looked at.

    Of several indexes searched as one, index: the directory of the one that holds it; rrf: where
    they were merged by rank, what the hits are ordered by. Else these are None.
    """

    rank: int
    id: str
    score: float
    hs: float
    rw: float
    text: str
    metadata: dict[str, Any]
    passage: str | None = None
    lexical: float | None = None
    bm25: float | None = None
    words: tuple[str, ...] | None = None
    index: str | None = None
    rrf: float | None = None


@dataclass(frozen=True)
class WordMatch:
    """What a document owes to words: see `Hit`. share: `Hit.lexical`."""

    bm25: float
    share: float
    words: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Of its hit."""
        return {"lexical": self.share, "bm25": self.bm25, "words": self.words}
